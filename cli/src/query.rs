//! Queries of a path.

use minik_client::segment;

/// A path with the parameters that have a value.
pub fn with(path: &str, parameters: &[(&str, &str)]) -> String {
    let query: Vec<String> = parameters
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", segment(value)))
        .collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_empty_ones_left_out() {
        let path =
            with("/api/v1/pods", &[("labelSelector", "a=b,c in (d)"), ("limit", ""), ("watch", "true")]);
        assert_eq!(path, "/api/v1/pods?labelSelector=a%3Db,c%20in%20(d)&watch=true");
        assert_eq!(with("/api", &[]), "/api");
    }
}
