//! SQLSTATEs and lost connections become a [`Disposition`]: the one place where that is decided.

use std::io;

use crate::model::Disposition;

pub(super) const REPORT_BUG: &str = "Nothing was confirmed that is not durable, so nothing is lost. Please report this with the log around it.";

/// What to do about an error of an SQL session: passing ones are tried again, those a person can cure are waited
/// for, the rest halts.
#[must_use]
pub fn disposition_of(error: &tokio_postgres::Error) -> Disposition {
    if let Some(code) = error.code() {
        return disposition_of_sqlstate(code.code());
    }
    let by_connection = std::error::Error::source(error).is_some_and(|source| source.is::<io::Error>());
    if error.is_closed() || by_connection {
        Disposition::Retry
    } else {
        Disposition::Halt { remedy: REPORT_BUG.to_owned() }
    }
}

/// [`disposition_of`] by SQLSTATE alone (PostgreSQL documentation, appendix A).
#[must_use]
pub fn disposition_of_sqlstate(sqlstate: &str) -> Disposition {
    let wait = |remedy: &str| Disposition::WaitForOperator { remedy: remedy.to_owned() };
    match sqlstate {
        // Serialization failure, deadlock; lock not available; object (slot) in use; too many connections; shutdown,
        // crash, starting; canceled by somebody; a failover left us on a server that is read only now.
        "40001" | "40P01" | "55P03" | "55006" | "53300" | "57P01" | "57P02" | "57P03" | "57P05" | "57014"
        | "25006" | "25P03" | "25P04" => Disposition::Retry,
        // Connection exceptions.
        code if code.starts_with("08") => Disposition::Retry,
        "53100" => wait("Free or add disk space on that server; it goes on by itself then."),
        "53200" | "53400" => wait("Give that server more memory, or raise the limit its message names."),
        "28P01" | "28000" => wait("Make the user name and password valid again on that server."),
        "3D000" => wait("Create the database again, or correct its name in the configuration."),
        "42501" => wait("Grant the privilege that the server's message names to the user that connects."),
        "42P01" | "42703" | "3F000" | "42883" | "42704" => wait(
            "Something that should exist on that server does not: create what the server's message names, or undo what removed it.",
        ),
        "42P04" | "42P06" | "42P07" | "42710" => {
            wait("Something of that name exists already on that server: remove or rename it, if it is not needed.")
        }
        _ => Disposition::Halt {
            remedy: "Read the server's message above. Nothing was confirmed to the source that is not durable on the target, so nothing is lost: correct the cause and start again.".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_conditions_are_retried_and_divergence_halts() {
        for code in ["40001", "40P01", "57P01", "57P03", "08006", "53300", "55006", "55P03"] {
            assert_eq!(disposition_of_sqlstate(code), Disposition::Retry, "{code}");
        }
        assert!(matches!(disposition_of_sqlstate("53100"), Disposition::WaitForOperator { .. }));
        assert!(matches!(disposition_of_sqlstate("23505"), Disposition::Halt { .. }));
        assert!(matches!(disposition_of_sqlstate("55000"), Disposition::Halt { .. }));
    }
}
