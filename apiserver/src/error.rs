//! Every refusal, and its one translation into a `Status`
//! (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/>).

use http::StatusCode;
use minik_apimachinery::field::ErrorList;
use serde_json::{Value, json};

/// What an object or collection is called in an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// The group, empty for the core.
    pub group: String,
    /// The resource's plural, or for [`ApiError::Invalid`] the kind.
    pub kind: String,
    /// The object's name, empty for a collection.
    pub name: String,
}

impl Named {
    /// `pods "x"` or `leases.coordination.k8s.io "x"`.
    fn text(&self) -> String {
        let dot = if self.group.is_empty() { "" } else { "." };
        format!("{}{dot}{} {:?}", self.kind, self.group, self.name)
    }
}

/// A refused request. Whether it can be tried again is said per variant.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    /// The request makes no sense. Final.
    #[error("{0}")]
    BadRequest(String),
    /// Nobody knows who asks. Final.
    #[error("Unauthorized")]
    Unauthorized,
    /// The user may not do this. Final.
    #[error("{message}")]
    Forbidden {
        /// On what.
        on: Named,
        /// Why.
        message: String,
    },
    /// The namespace is being deleted: nothing new is made in it. Final.
    #[error("{message}")]
    Terminating {
        /// On what.
        on: Named,
        /// Why.
        message: String,
        /// The cause by itself.
        cause: String,
    },
    /// There is no such object. Final.
    #[error("{} not found", .0.text())]
    NotFound(Named),
    /// There is no such path. Final.
    #[error("the server could not find the requested resource")]
    NoSuchPath,
    /// Nothing at all is below the path; answered as plain text. Final.
    #[error("404 page not found")]
    NoSuchPage,
    /// The name is taken. Final.
    #[error("{} already exists", .0.text())]
    AlreadyExists(Named),
    /// The object was changed by somebody else, or is not in a state that allows this. Retryable after a read.
    #[error("Operation cannot be fulfilled on {}: {why}", on.text())]
    Conflict {
        /// On what.
        on: Named,
        /// Why.
        why: String,
    },
    /// Another manager owns fields that were applied. Final unless forced.
    #[error("{message}")]
    ApplyConflict {
        /// The summary.
        message: String,
        /// Per field: what is said, and its path.
        causes: Vec<(String, String)>,
    },
    /// Fields are wrong. Final.
    #[error("{} is invalid: {}", invalid_name(on), errors.aggregate())]
    Invalid {
        /// On what; `kind` is the kind.
        on: Named,
        /// What is wrong with which field.
        errors: ErrorList,
    },
    /// The revision is too old: list again.
    #[error("{0}")]
    Expired(String),
    /// A list cannot go on at its revision: list again, or go on with the token at another revision.
    #[error(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )]
    ContinueExpired {
        /// Goes on with what is there now.
        token: String,
    },
    /// The method is not allowed on this path. Final.
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// The answer cannot be given in an accepted form. Final.
    #[error("only the following media types are accepted: {0}")]
    NotAcceptable(String),
    /// The body is in a form that is not understood. Final.
    #[error("the body of the request was in an unknown format - accepted media types include: {0}")]
    UnsupportedMediaType(String),
    /// The body is too large. Final.
    #[error("Request entity too large: limit is {0}")]
    TooLarge(usize),
    /// The body would be too large once it is read. Final.
    #[error("{0}")]
    TooManyValues(String),
    /// An eviction would break a disruption budget, or a limit is reached. Retryable later.
    #[error("{message}")]
    TooManyRequests {
        /// Why.
        message: String,
        /// When to come again; 0 for nobody knows.
        retry_after_seconds: u32,
        /// A cause's reason and words.
        cause: Option<(&'static str, String)>,
    },
    /// The answer did not come in time. Retryable.
    #[error("{message}")]
    Timeout {
        /// On what.
        on: Named,
        /// What was waited for.
        message: String,
    },
    /// A part that is needed does not answer. Retryable.
    #[error("{0}")]
    Unavailable(String),
    /// Something that is not built yet. Final.
    #[error("{0} is not built yet in minik")]
    NotImplemented(String),
    /// What somebody behind the server refused, with his code. Final or not as he says.
    #[error("{message}")]
    Handed {
        /// The code.
        code: StatusCode,
        /// The reason, empty for none.
        reason: &'static str,
        /// The message.
        message: String,
        /// What he said.
        words: String,
    },
    /// What stock answers with code 500 and no reason. Final.
    #[error("{0}")]
    Failed(String),
    /// A patch that does not fit the object: code 422 without causes. Final.
    #[error("{0}")]
    Inapplicable(String),
    /// A defect or a broken store. Retryable with doubt.
    #[error("Internal error occurred: {0}")]
    Internal(String),
}

fn invalid_name(on: &Named) -> String {
    let group = if on.group.is_empty() { String::new() } else { format!(".{}", on.group) };
    format!("{}{group} {:?}", on.kind, on.name)
}

impl ApiError {
    /// The code and reason.
    pub fn code(&self) -> (StatusCode, &'static str) {
        match self {
            ApiError::BadRequest(_) => (StatusCode::BAD_REQUEST, "BadRequest"),
            ApiError::Unauthorized => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            ApiError::Forbidden { .. } | ApiError::Terminating { .. } => (StatusCode::FORBIDDEN, "Forbidden"),
            ApiError::NotFound(_) | ApiError::NoSuchPath | ApiError::NoSuchPage => {
                (StatusCode::NOT_FOUND, "NotFound")
            }
            ApiError::AlreadyExists(_) => (StatusCode::CONFLICT, "AlreadyExists"),
            ApiError::Conflict { .. } | ApiError::ApplyConflict { .. } => (StatusCode::CONFLICT, "Conflict"),
            ApiError::Invalid { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
            ApiError::Expired(_) | ApiError::ContinueExpired { .. } => (StatusCode::GONE, "Expired"),
            ApiError::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            ApiError::NotAcceptable(_) => (StatusCode::NOT_ACCEPTABLE, "NotAcceptable"),
            ApiError::UnsupportedMediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType"),
            ApiError::TooLarge(_) | ApiError::TooManyValues(_) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge")
            }
            ApiError::TooManyRequests { .. } => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
            ApiError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "Timeout"),
            ApiError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            ApiError::NotImplemented(_) => (StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
            ApiError::Handed { code, reason, .. } => (*code, *reason),
            ApiError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, ""),
            ApiError::Inapplicable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
            ApiError::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        }
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let (code, reason) = self.code();
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": reason, "code": code.as_u16(),
        });
        if reason.is_empty() {
            status.as_object_mut().map(|fields| fields.remove("reason"));
        }
        if let Some(details) = self.details() {
            status["details"] = details;
        }
        if let ApiError::ContinueExpired { token } = self {
            status["metadata"] = json!({"continue": token});
        }
        status
    }

    fn details(&self) -> Option<Value> {
        let named = |on: &Named| {
            let mut details = serde_json::Map::new();
            for (name, value) in [("name", &on.name), ("group", &on.group), ("kind", &on.kind)] {
                if !value.is_empty() {
                    details.insert(name.into(), value.as_str().into());
                }
            }
            details
        };
        let details = match self {
            ApiError::Forbidden { on, .. }
            | ApiError::NotFound(on)
            | ApiError::AlreadyExists(on)
            | ApiError::Conflict { on, .. }
            | ApiError::Timeout { on, .. } => named(on),
            ApiError::Terminating { on, cause, .. } => {
                let mut details = named(on);
                let cause = json!({"reason": "NamespaceTerminating", "message": cause, "field": "metadata.namespace"});
                details.insert("causes".into(), json!([cause]));
                details
            }
            ApiError::NoSuchPath | ApiError::MethodNotAllowed => serde_json::Map::new(),
            ApiError::Invalid { on, errors } => {
                let mut details = named(on);
                let causes = errors.iter().map(|error| json!({"reason": error.reason(), "message": error.body(), "field": error.path.as_str()}));
                details.insert("causes".into(), causes.collect());
                details
            }
            ApiError::ApplyConflict { causes, .. } => {
                let causes = causes.iter().map(|(message, field)| json!({"reason": "FieldManagerConflict", "message": message, "field": field}));
                serde_json::Map::from_iter([("causes".to_owned(), causes.collect())])
            }
            ApiError::TooManyRequests { retry_after_seconds, cause, .. } => {
                let mut details = serde_json::Map::new();
                if let Some((reason, message)) = cause {
                    details.insert("causes".into(), json!([{"reason": reason, "message": message}]));
                }
                if *retry_after_seconds > 0 {
                    details.insert("retryAfterSeconds".into(), (*retry_after_seconds).into());
                }
                details
            }
            ApiError::Handed { words, .. } => serde_json::Map::from_iter([(
                "causes".to_owned(),
                json!([{"reason": "UnexpectedServerResponse", "message": words}]),
            )]),
            ApiError::Internal(message) => {
                serde_json::Map::from_iter([("causes".to_owned(), json!([{"message": message}]))])
            }
            _ => return None,
        };
        Some(Value::Object(details))
    }
}

/// Shorthand results of this crate.
pub type Result<T> = std::result::Result<T, ApiError>;

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Named {
        Named { group: String::new(), kind: "pods".into(), name: name.into() }
    }

    #[test]
    fn a_status_names_what_is_missing() {
        assert_eq!(
            ApiError::NotFound(pod("x")).status(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "pods \"x\" not found",
                "reason": "NotFound", "details": {"name": "x", "kind": "pods"}, "code": 404})
        );
    }

    #[test]
    fn grouped_names_bear_their_group() {
        let on = Named { group: "coordination.k8s.io".into(), kind: "leases".into(), name: "l".into() };
        assert_eq!(
            ApiError::AlreadyExists(on).to_string(),
            "leases.coordination.k8s.io \"l\" already exists"
        );
    }
}
