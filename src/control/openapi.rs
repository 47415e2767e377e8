//! The OpenAPI document, generated from the routes and records themselves and served at `/openapi.json`.

use axum::Json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{dto, events, operations, page, problem, routes, verification};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "pgsluice",
        description = "Follow a migration, and switch over.\n\nErrors are RFC 9457 problem documents \
                       (`application/problem+json`) with a `remedy`. Reading is open; commands need a bearer token \
                       when `api.token_file` is set, and are refused on a listener that others can reach when it is not."
    ),
    paths(
        page::index,
        routes::healthz,
        routes::readyz,
        routes::metrics,
        routes::status,
        events::stream,
        operations::show_tables,
        operations::add_tables,
        operations::start_cutover,
        operations::show_cutover,
        operations::abort_cutover,
        operations::confirm_traffic,
        verification::start_verification,
        verification::show_verification,
        verification::stop_verification,
        operations::start_rollback,
    ),
    components(schemas(dto::StatusRecord, dto::TablesRecord, dto::AddTablesRecord, dto::CutoverRecord, dto::CutoverRequestRecord, dto::VerificationRecord, dto::VerificationRequestRecord, problem::ProblemRecord)),
    modifiers(&Bearer),
    tags(
        (name = "health", description = "For machines."),
        (name = "migration", description = "Where the migration is."),
        (name = "verification", description = "Comparing both sides."),
        (name = "cutover", description = "Switching over, and rehearsing it."),
    )
)]
struct Document;

/// Declares the bearer scheme that the commands refer to.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The content of the file named by `api.token_file`."))
            .build();
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// The document.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

pub(super) async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}
