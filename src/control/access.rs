//! Who may send commands. Reading is open to everybody who reaches the listener; commands need the bearer token, or,
//! without one configured, a loopback listener and a client that addresses it as such. The token is compared in
//! constant time and never printed (INV-10).

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, Uri, header};
use subtle::ConstantTimeEq;

use super::problem::ApiError;
use crate::connection::Secret;

/// How commands are admitted; decided once, when the listener is known.
#[derive(Clone, Debug)]
pub enum Access {
    /// Whoever knows the token.
    Token(Secret),
    /// Whoever is on this machine; a web page open in a browser on it is not.
    Loopback,
    /// Nobody: the listener can be reached from elsewhere and there is no token.
    Nobody {
        /// Where it listens.
        listen: SocketAddr,
    },
}

impl Access {
    /// The rule for a listener.
    #[must_use]
    pub fn of(token: Option<Secret>, listen: SocketAddr) -> Self {
        match token {
            Some(token) => Self::Token(token),
            None if listen.ip().is_loopback() => Self::Loopback,
            None => Self::Nobody { listen },
        }
    }

    /// For the log.
    #[must_use]
    pub const fn describe(&self) -> &'static str {
        match self {
            Self::Token(_) => "commands need the bearer token",
            Self::Loopback => "commands are accepted from this machine",
            Self::Nobody { .. } => "commands are refused: no token on a listener that others can reach",
        }
    }

    /// For the API: who may send commands.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Loopback => "loopback",
            Self::Nobody { .. } => "nobody",
        }
    }

    /// Admits or refuses a command by its headers.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        match self {
            Self::Token(expected) => match bearer(headers) {
                Some(given) if bool::from(given.as_bytes().ct_eq(expected.current().as_bytes())) => Ok(()),
                _ => Err(ApiError::Unauthorized),
            },
            // A page in a browser on this machine can send requests here, also under a name of its own that resolves
            // to 127.0.0.1. Browsers say so in Host and Origin, and a page cannot forge those.
            Self::Loopback if addressed_as_loopback(headers) => Ok(()),
            Self::Loopback => Err(ApiError::Forbidden {
                detail: "Nothing was changed: the request comes from a web page of another site, or addresses this \
                         machine by a name that is not its loopback name."
                    .into(),
                remedy: "Address it as 127.0.0.1 or localhost, or configure api.token_file.",
            }),
            Self::Nobody { listen } => Err(ApiError::Forbidden {
                detail: format!(
                    "Nothing was changed: commands are refused because the API listens on {listen}, which others can \
                     reach, and no token is configured."
                ),
                remedy: "Set api.token_file, or let the API listen on 127.0.0.1, and start again.",
            }),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn addressed_as_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(|host| host.to_str().is_ok_and(is_loopback_authority));
    let origin = headers.get(header::ORIGIN).map(|origin| {
        let uri = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
        uri.is_some_and(|uri| {
            uri.authority().is_some_and(|authority| is_loopback_authority(authority.as_str()))
        })
    });
    host.unwrap_or(true) && origin.unwrap_or(true)
}

/// Whether `host`, `host:port` or `[address]:port` names the loopback interface.
fn is_loopback_authority(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().expect("header"))).collect()
    }

    #[test]
    fn the_token_decides_when_there_is_one_even_on_loopback() {
        let access = Access::of(Some(Secret::new("s3cret")), "127.0.0.1:0".parse().expect("address"));
        let admitted = |value| access.admit(&headers(&[(header::AUTHORIZATION, value)])).is_ok();
        assert!(admitted("Bearer s3cret"));
        assert!(admitted("bearer s3cret"));
        for refused in ["Bearer s3cre", "Bearer s3cret0", "Bearer ", "Basic s3cret", "s3cret"] {
            assert!(!admitted(refused), "{refused}");
        }
        assert!(matches!(access.admit(&HeaderMap::new()), Err(ApiError::Unauthorized)));
    }

    #[test]
    fn without_a_token_only_loopback_listeners_take_commands() {
        let everywhere = Access::of(None, "0.0.0.0:8080".parse().expect("address"));
        assert!(matches!(everywhere.admit(&HeaderMap::new()), Err(ApiError::Forbidden { .. })));
        let loopback = Access::of(None, "[::1]:8080".parse().expect("address"));
        for host in ["localhost:8080", "127.0.0.1", "127.0.0.2:8080", "[::1]:8080"] {
            assert!(loopback.admit(&headers(&[(header::HOST, host)])).is_ok(), "{host}");
        }
    }

    #[test]
    fn a_web_page_cannot_send_commands_to_a_loopback_listener() {
        let loopback = Access::of(None, "127.0.0.1:8080".parse().expect("address"));
        let attempts = [
            vec![(header::HOST, "127.0.0.1:8080"), (header::ORIGIN, "https://example.com")],
            vec![(header::HOST, "127.0.0.1:8080"), (header::ORIGIN, "null")],
            vec![(header::HOST, "rebound.example.com:8080")],
            vec![(header::HOST, "127.0.0.1.example.com")],
        ];
        for attempt in attempts {
            assert!(
                matches!(loopback.admit(&headers(&attempt)), Err(ApiError::Forbidden { .. })),
                "{attempt:?}"
            );
        }
    }
}
