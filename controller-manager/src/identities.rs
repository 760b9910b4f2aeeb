//! One ServiceAccount a controller, so that each has the rights of its own role only
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#controller-roles>).
//!
//! ```text
//!  controller ──> client of NAME ── adds the token of kube-system/NAME ──> anonymous client ──> apiserver
//!                    └─ token missing or soon over: TokenRequest by the manager's own identity
//! ```

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use kube::client::Body;
use minik_client::{ClientError, call};
use minik_component::Clock;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tower::BoxError;

const NAMESPACE: &str = "kube-system";
/// How long a token is asked to last.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Gives each controller its client.
#[derive(Clone)]
pub struct Identities {
    /// The manager's own, which may ask for tokens.
    manager: kube::Client,
    anonymous: Option<kube::Client>,
    clock: Arc<dyn Clock>,
}

impl Identities {
    /// Without an anonymous client all act as the manager.
    pub fn new(manager: kube::Client, anonymous: Option<kube::Client>, clock: Arc<dyn Clock>) -> Identities {
        Identities { manager, anonymous, clock }
    }

    /// The client of the ServiceAccount `kube-system/NAME`, which is made when there is none.
    pub fn client(&self, name: &'static str) -> kube::Client {
        let Some(anonymous) = self.anonymous.clone() else { return self.manager.clone() };
        let account = Arc::new(Account {
            name,
            manager: self.manager.clone(),
            anonymous,
            clock: self.clock.clone(),
            token: Mutex::default(),
        });
        let service = tower::service_fn(move |request: Request<Body>| {
            let account = account.clone();
            async move { account.send(request).await }
        });
        minik_client::over(service, "default")
    }
}

struct Account {
    name: &'static str,
    manager: kube::Client,
    anonymous: kube::Client,
    clock: Arc<dyn Clock>,
    /// Held while a token is asked for, so that it is asked for once.
    token: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    /// By the elapsed time.
    renew_at: Duration,
}

#[derive(Deserialize)]
struct Answer {
    status: AnswerStatus,
}

#[derive(Deserialize)]
struct AnswerStatus {
    token: String,
}

impl Account {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let header = self.header().await?;
        request.headers_mut().insert(AUTHORIZATION, header);
        let response = self.anonymous.send(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            // The account may be another of the same name by now; the next try asks for a new token.
            self.token.lock().await.take();
        }
        Ok(response)
    }

    async fn header(&self) -> Result<HeaderValue, BoxError> {
        let mut token = self.token.lock().await;
        let now = self.clock.elapsed();
        if let Some(token) = token.as_ref().filter(|token| now < token.renew_at) {
            return Ok(token.header.clone());
        }
        let Answer { status } = self.ask().await?;
        let mut header = HeaderValue::try_from(format!("Bearer {}", status.token))?;
        header.set_sensitive(true);
        *token = Some(Token { header: header.clone(), renew_at: now + LIFETIME.mul_f64(0.8) });
        Ok(header)
    }

    async fn ask(&self) -> Result<Answer, ClientError> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{}/token", self.name);
        let wish = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": LIFETIME.as_secs()},
        });
        match call::post(&self.manager, &path, &wish).await {
            Err(error) if call::refusal(&error) == Some(404) => {
                self.create().await?;
                call::post(&self.manager, &path, &wish).await
            }
            other => other,
        }
    }

    async fn create(&self) -> Result<(), ClientError> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": self.name, "namespace": NAMESPACE}});
        match call::post::<Value>(&self.manager, &path, &account).await {
            Err(error) if call::refusal(&error) == Some(409) => Ok(()),
            other => other.map(drop),
        }
    }
}
