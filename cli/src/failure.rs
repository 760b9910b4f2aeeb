//! What a command could not do: one sentence, what to do about it, and an exit code.

use std::fmt;
use std::process::ExitCode;

/// There is no such cluster, or it does not run.
const NO_CLUSTER: u8 = 3;

/// A command's failure.
#[derive(Debug)]
pub struct Failure {
    what: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure that this sentence tells.
    pub fn new(what: impl Into<String>) -> Failure {
        Failure { what: what.into(), hint: None, code: 1 }
    }

    /// The same with what to do about it.
    pub fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }

    /// The same as a wish for a cluster that is not there or does not run.
    pub fn no_cluster(self) -> Failure {
        Failure { code: NO_CLUSTER, ..self }
    }

    /// The same with where it comes from before it.
    pub fn of(self, origin: &str) -> Failure {
        Failure { what: format!("{origin}: {}", self.what), ..self }
    }

    /// Whether there is no such cluster, or it does not run.
    pub fn is_no_cluster(&self) -> bool {
        self.code == NO_CLUSTER
    }

    /// Several failures as one, a line each; none is none.
    ///
    /// # Errors
    /// When there is one.
    pub fn all(failures: Vec<Failure>) -> Result<(), Failure> {
        let join = |all: Failure, next: Failure| {
            let what = format!("{all}\nminikctl: {next}");
            Failure { what, hint: None, code: all.code.max(next.code) }
        };
        failures.into_iter().reduce(join).map_or(Ok(()), Err)
    }

    /// Prints it and gives the exit code.
    pub fn report(&self) -> ExitCode {
        eprintln!("minikctl: {self}");
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, ": {hint}"),
            None => Ok(()),
        }
    }
}

/// Any error is told with its causes.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::new(minik_component::chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_to_do() {
        let failure = Failure::new("no cluster is running").hint("start one with `minikctl cluster up`");
        assert_eq!(failure.to_string(), "no cluster is running: start one with `minikctl cluster up`");
    }

    #[test]
    fn failures_are_told_a_line_each() {
        let all = Failure::all(vec![Failure::new("a").hint("b"), Failure::new("c").of("d")]);
        assert_eq!(all.unwrap_err().to_string(), "a: b\nminikctl: d: c");
        assert!(Failure::all(vec![]).is_ok());
    }

    #[test]
    fn an_error_is_told_with_its_cause() {
        let error = std::io::Error::other("port 1 is taken");
        assert_eq!(Failure::from(error).to_string(), "port 1 is taken");
    }
}
