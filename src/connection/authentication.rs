//! Authentication of a connection of our own framing: cleartext, MD5, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, as a state
//! machine of messages in and answers out. It owns no socket, and writes the password nowhere but into an answer.
//! (SQL sessions authenticate by tokio-postgres.)
//!
//! Source: PostgreSQL documentation, "SASL Authentication"; RFC 5802, RFC 7677.

use bytes::BytesMut;
use pgsluice_proto::frame::{AuthRequest, frontend};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as ScramBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};

use super::error::ConnectFailure;
use super::settings::ChannelBinding;

/// Where the exchange stands. Made for one connection, fed with every Authentication message of it.
pub(super) struct Authentication<'a> {
    user: &'a str,
    password: Option<&'a str>,
    policy: ChannelBinding,
    /// `tls-server-end-point` of the connection.
    binding: Option<&'a [u8]>,
    scram: Scram,
}

enum Scram {
    NotStarted,
    Running { exchange: Box<ScramSha256>, bound: Bound },
    Proven(Bound),
}

/// Whether the SCRAM exchange covers the TLS channel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    ToChannel,
    ToNothing,
}

/// Whether the server has let us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Authenticated,
    /// Send what was written to the buffer, if anything, and wait for the next message.
    Continue,
}

impl<'a> Authentication<'a> {
    pub(super) const fn new(
        user: &'a str,
        password: Option<&'a str>,
        policy: ChannelBinding,
        binding: Option<&'a [u8]>,
    ) -> Self {
        Self { user, password, policy, binding, scram: Scram::NotStarted }
    }

    /// Takes one message, and appends the answer to `out`.
    pub(super) fn handle(
        &mut self,
        request: AuthRequest,
        out: &mut BytesMut,
    ) -> Result<Progress, ConnectFailure> {
        match request {
            AuthRequest::Ok => {
                self.check_finished()?;
                return Ok(Progress::Authenticated);
            }
            AuthRequest::CleartextPassword => {
                self.require_no_binding()?;
                frontend::password(self.password()?.as_bytes(), out)?;
            }
            AuthRequest::Md5Password { salt } => {
                self.require_no_binding()?;
                let hash = md5_hash(self.user.as_bytes(), self.password()?.as_bytes(), salt);
                frontend::password(hash.as_bytes(), out)?;
            }
            AuthRequest::Sasl { mechanisms } => self.begin_scram(&mechanisms, out)?,
            AuthRequest::SaslContinue(data) => {
                let Scram::Running { exchange, .. } = &mut self.scram else {
                    return Err(out_of_order("SASLContinue"));
                };
                exchange.update(&data).map_err(not_proven)?;
                frontend::sasl_response(exchange.message(), out)?;
            }
            AuthRequest::SaslFinal(data) => {
                let Scram::Running { exchange, bound } = &mut self.scram else {
                    return Err(out_of_order("SASLFinal"));
                };
                exchange.finish(&data).map_err(not_proven)?;
                self.scram = Scram::Proven(*bound);
            }
            AuthRequest::Other { method } => {
                return Err(ConnectFailure::UnsupportedAuthentication { method: format!("method {method}") });
            }
        }
        Ok(Progress::Continue)
    }

    fn begin_scram(&mut self, mechanisms: &[String], out: &mut BytesMut) -> Result<(), ConnectFailure> {
        let offers = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
        let binding = self.binding.filter(|_| self.policy != ChannelBinding::Disable);
        let (mechanism, scram_binding, bound) = match binding {
            Some(binding) if offers(SCRAM_SHA_256_PLUS) => {
                let binding = ScramBinding::tls_server_end_point(binding.to_vec());
                (SCRAM_SHA_256_PLUS, binding, Bound::ToChannel)
            }
            // "We could, you did not offer it": if the server did, somebody in between took the offer out, and the
            // server notices (RFC 5802, section 6).
            Some(_) => (SCRAM_SHA_256, ScramBinding::unrequested(), Bound::ToNothing),
            None => (SCRAM_SHA_256, ScramBinding::unsupported(), Bound::ToNothing),
        };
        if !offers(mechanism) {
            return Err(ConnectFailure::UnsupportedAuthentication { method: mechanisms.join(", ") });
        }
        if bound == Bound::ToNothing {
            self.require_no_binding()?;
        }
        let exchange = Box::new(ScramSha256::new(self.password()?.as_bytes(), scram_binding));
        frontend::sasl_initial(mechanism, exchange.message(), out)?;
        self.scram = Scram::Running { exchange, bound };
        Ok(())
    }

    /// The server must not skip the proof that it knows the password too.
    pub(super) fn check_finished(&self) -> Result<(), ConnectFailure> {
        match self.scram {
            Scram::Running { .. } => Err(ConnectFailure::ServerNotProven {
                problem: "it ended the exchange before its proof".to_owned(),
            }),
            Scram::Proven(Bound::ToChannel) => Ok(()),
            Scram::NotStarted | Scram::Proven(Bound::ToNothing) => self.require_no_binding(),
        }
    }

    fn require_no_binding(&self) -> Result<(), ConnectFailure> {
        match self.policy {
            ChannelBinding::Require => Err(ConnectFailure::ChannelBindingUnavailable),
            ChannelBinding::Prefer | ChannelBinding::Disable => Ok(()),
        }
    }

    fn password(&self) -> Result<&'a str, ConnectFailure> {
        self.password.ok_or(ConnectFailure::PasswordMissing)
    }
}

fn out_of_order(message: &str) -> ConnectFailure {
    ConnectFailure::Protocol(format!("{message} outside of a SASL exchange"))
}

fn not_proven(error: std::io::Error) -> ConnectFailure {
    ConnectFailure::ServerNotProven { problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authentication(policy: ChannelBinding, binding: Option<&[u8]>) -> Authentication<'_> {
        Authentication::new("app", Some("secret"), policy, binding)
    }

    fn scram_offer(names: &[&str]) -> AuthRequest {
        AuthRequest::Sasl { mechanisms: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn a_server_that_skips_its_scram_proof_is_refused() {
        let mut out = BytesMut::new();
        let mut auth = authentication(ChannelBinding::Prefer, None);
        assert_eq!(auth.handle(scram_offer(&[SCRAM_SHA_256]), &mut out).unwrap(), Progress::Continue);
        assert!(matches!(
            auth.handle(AuthRequest::Ok, &mut out),
            Err(ConnectFailure::ServerNotProven { .. })
        ));
    }

    #[test]
    fn required_channel_binding_refuses_every_weaker_method_before_the_password_is_used() {
        for request in [
            AuthRequest::Ok,
            AuthRequest::CleartextPassword,
            AuthRequest::Md5Password { salt: [1, 2, 3, 4] },
            scram_offer(&[SCRAM_SHA_256]),
        ] {
            let mut out = BytesMut::new();
            let mut auth = authentication(ChannelBinding::Require, Some(b"hash"));
            let result = auth.handle(request, &mut out);
            assert!(matches!(result, Err(ConnectFailure::ChannelBindingUnavailable)));
            assert!(out.is_empty());
        }
    }

    #[test]
    fn channel_binding_is_used_where_both_sides_can() {
        let mut out = BytesMut::new();
        let mut auth = authentication(ChannelBinding::Prefer, Some(b"hash"));
        auth.handle(scram_offer(&[SCRAM_SHA_256_PLUS, SCRAM_SHA_256]), &mut out).unwrap();
        let sent = String::from_utf8_lossy(&out).into_owned();
        assert!(sent.contains("SCRAM-SHA-256-PLUS") && sent.contains("p=tls-server-end-point"));
    }

    #[test]
    fn a_missing_password_is_said_to_be_missing() {
        let mut auth = Authentication::new("app", None, ChannelBinding::Prefer, None);
        let result = auth.handle(AuthRequest::CleartextPassword, &mut BytesMut::new());
        assert!(matches!(result, Err(ConnectFailure::PasswordMissing)));
    }
}
