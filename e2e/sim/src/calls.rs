//! What a test asks of the API.

use crate::cluster::Sim;
use anyhow::Context;
use minik_client::call::{self, PatchKind};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

impl Sim {
    /// Posts an object.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        call::post(&self.admin, path, object).await.with_context(|| format!("POST {path} {object}"))
    }

    /// Writes a status by a strategic merge patch.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn set_status(&self, path: &str, status: &Value) -> anyhow::Result<Value> {
        self.patch(&format!("{path}/status"), &json!({"status": status})).await
    }

    /// Patches an object strategically.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn patch(&self, path: &str, change: &Value) -> anyhow::Result<Value> {
        let patched = call::patch(&self.admin, path, PatchKind::Strategic, change).await;
        patched.with_context(|| format!("PATCH {path} {change}"))
    }

    /// Deletes an object or a collection, with `DeleteOptions`.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn delete(&self, path: &str, options: &Value) -> anyhow::Result<Value> {
        call::delete(&self.admin, path, options).await.with_context(|| format!("DELETE {path}"))
    }

    /// Reads an object; `None` when it is not there.
    ///
    /// # Errors
    /// When it is refused otherwise.
    pub async fn find<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Option<T>> {
        match call::get(&self.admin, path).await {
            Err(error) if call::refusal(&error) == Some(404) => Ok(None),
            other => other.map(Some).with_context(|| format!("GET {path}")),
        }
    }

    /// Reads a collection.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let list: Value = call::get(&self.admin, path).await.with_context(|| path.to_owned())?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}
