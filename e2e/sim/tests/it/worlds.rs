//! Worlds of chance are lived by `examples/hunt.rs`; here is what can be said of them without living any.

use minik_component::{Mistake, Plant};

#[test]
fn each_kind_of_mistake_is_planted() {
    for kind in [Mistake::Crash, Mistake::Unobserved, Mistake::Stale] {
        assert!(Plant::ALL.iter().filter(|(_, mistake)| *mistake == kind).count() >= 5, "{kind:?}");
    }
}
