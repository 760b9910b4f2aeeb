//! The wish to end, from a signal or from whoever runs the service.

use tokio_util::sync::CancellationToken;

/// Told once, seen by everyone who holds a copy.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// One that is requested by calling [`Shutdown::request`].
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// One that SIGTERM and SIGINT request; the second signal ends the process at once.
    ///
    /// # Errors
    /// When the kernel refuses the signal handlers.
    pub fn on_signals() -> std::io::Result<Shutdown> {
        use tokio::signal::unix::{SignalKind, signal};
        let shutdown = Shutdown::default();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let requested = shutdown.clone();
        // The task lives as long as the process: it owns the way out.
        tokio::spawn(async move {
            for _ in 0..2 {
                // Cancel-safe: a signal that was not taken stays pending.
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                if requested.0.is_cancelled() {
                    std::process::exit(130);
                }
                requested.request();
            }
        });
        Ok(shutdown)
    }

    /// Asks for the end.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Returns once the end was asked for.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// One that ends with this one and can be ended before it.
    pub fn child(&self) -> Shutdown {
        Shutdown(self.0.child_token())
    }

    /// The token itself, for libraries that take one.
    pub fn token(&self) -> &CancellationToken {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_ends_with_its_parent_and_not_the_other_way_round() {
        let parent = Shutdown::new();
        let (one, two) = (parent.child(), parent.child());
        one.request();
        assert!(one.is_requested() && !two.is_requested() && !parent.is_requested());
        parent.request();
        two.requested().await;
    }
}
