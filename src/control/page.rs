//! The status page at `/`: files that are part of the binary, served as they are. It asks the same API as everybody else,
//! and knows nothing more. Nothing is loaded from elsewhere, and the headers forbid it: no inline script, no foreign
//! connection, no markup made from text, no frame around it.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;

/// Scripts cannot turn text into markup at all (`trusted-types`): a table's name stays a name.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    // Another version's page would speak to this version's API.
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

#[derive(Clone, Copy)]
pub(super) struct File {
    pub(super) path: &'static str,
    pub(super) kind: &'static str,
    content: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

macro_rules! asset {
    ($name:literal, $kind:expr) => {
        File { path: concat!("/assets/", $name), kind: $kind, content: include_str!(concat!("page/", $name)) }
    };
}

pub(super) const FILES: [File; 14] = [
    File { path: "/", kind: HTML, content: include_str!("page/index.html") },
    asset!("page.css", STYLE),
    asset!("icon.svg", IMAGE),
    asset!("main.js", SCRIPT),
    asset!("feed.js", SCRIPT),
    asset!("cluster.js", SCRIPT),
    asset!("commands.js", SCRIPT),
    asset!("dialog.js", SCRIPT),
    asset!("dom.js", SCRIPT),
    asset!("notices.js", SCRIPT),
    asset!("copy.js", SCRIPT),
    asset!("stream.js", SCRIPT),
    asset!("operation.js", SCRIPT),
    asset!("verification.js", SCRIPT),
];

/// A route for each file.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, file| router.route(file.path, get(async move || file.answer())))
}

/// The status page. It loads what it needs from `/assets/`, and nothing from elsewhere.
#[utoipa::path(get, path = "/", tag = "migration",
    responses((status = 200, description = "The page.", body = String, content_type = "text/html")))]
#[expect(dead_code, reason = "stands for the page in the API's description; all files are served alike")]
async fn index() {}

impl File {
    fn answer(self) -> impl IntoResponse {
        let mut response = self.content.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        for (name, value) in HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
