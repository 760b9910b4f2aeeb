//! Waiting in the simulation's time.

use crate::cluster::Sim;
use anyhow::bail;
use std::time::Duration;

/// Between two looks, in the simulation's time.
const LOOK: Duration = Duration::from_millis(100);
/// How long anything may take, in the simulation's time.
const LIMIT: Duration = Duration::from_secs(600);

impl Sim {
    /// Waits until something is so.
    ///
    /// # Errors
    /// When it is not within ten minutes of the simulation's time, or looking fails.
    pub async fn until(
        &self,
        what: &str,
        mut so: impl AsyncFnMut(&Sim) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let begun = tokio::time::Instant::now();
        while !so(self).await? {
            if begun.elapsed() > LIMIT {
                bail!("not within {} s: {what}", LIMIT.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until Pods can be made in the namespace `default`: the controllers have made its account.
    ///
    /// # Errors
    /// As [`Sim::until`].
    pub async fn account(&self) -> anyhow::Result<()> {
        self.until("the default account", async |sim: &Sim| {
            let path = "/api/v1/namespaces/default/serviceaccounts/default";
            Ok(sim.find::<serde_json::Value>(path).await?.is_some())
        })
        .await
    }

    /// Waits until nothing below these folders of the store changes for `quiet`.
    ///
    /// # Errors
    /// When they do not come to rest within ten minutes of the simulation's time.
    pub async fn settled(&self, folders: &[&str], quiet: Duration) -> anyhow::Result<()> {
        let begun = tokio::time::Instant::now();
        let rests = |sim: &Sim| sim.ledger().quiet(folders).min(begun.elapsed()) >= quiet;
        self.until("the cluster comes to rest", async |sim: &Sim| Ok(rests(sim))).await
    }
}
