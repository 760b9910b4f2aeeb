//! What a new cluster begins with: namespaces, roles, priority classes, the server's own Service.

use crate::api::Api;
use minik_component::Shutdown;

/// Makes what is missing, then keeps what must follow the live servers, until `shutdown`.
///
/// # Errors
/// What could not be made.
pub async fn run(_api: Api, _shutdown: Shutdown) -> Result<(), crate::ApiError> {
    Ok(())
}
