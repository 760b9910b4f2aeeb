//! The scheduler: queue, cache, filter and score plugins, preemption, binding.
