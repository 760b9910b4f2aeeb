//! Defects that can be switched on, to see that the simulated cluster finds such. Without the feature `plants`, which only
//! the simulation asks for, [`planted`] is the constant `false`.

/// What kind of mistake a planted defect is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mistake {
    /// A death, a refusal or a lost answer between two writes is not lived through.
    Crash,
    /// A state that nobody saw, since watches show only some, was counted on.
    Unobserved,
    /// What a cache said was believed although it was old.
    Stale,
}

macro_rules! plants {
    ($($(#[$doc:meta])* $name:ident = $mistake:ident;)*) => {
        /// A defect, by what goes wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Plant { $($(#[$doc])* $name,)* }

        impl Plant {
            /// All of them, with the kind of mistake that each is.
            pub const ALL: &[(Plant, Mistake)] = &[$((Plant::$name, Mistake::$mistake),)*];
        }
    };
}

plants! {
    /// A controller manager that starts does not look at the Deployments that are there.
    DeploymentsUntold = Crash;
    /// One that starts does not look at the ReplicaSets that are there.
    ReplicaSetsUntold = Crash;
    /// One that starts does not know the Services that are there.
    ServicesUntold = Crash;
    /// A scheduler that starts does not look at the Pods that wait.
    WaitingPodsUntold = Crash;
    /// A kubelet that starts gives out addresses that its Pods have.
    AddressesForgotten = Crash;
    /// A creation without an answer is tried again under another name.
    RetriedUnderNewName = Crash;
    /// What a failed write of an EndpointSlice was for is forgotten.
    FailedSliceForgotten = Crash;
    /// A key whose work failed is not worked on again.
    FailedKeyForgotten = Crash;
    /// A Pod that could not be bound keeps its place.
    FailedBindingKept = Crash;
    /// A creation that failed is still waited for.
    FailedCreationExpected = Crash;
    /// After a list nobody is told of what is gone.
    GoneUntoldByList = Unobserved;
    /// After a list nobody is told of what has changed.
    ChangedUntoldByList = Unobserved;
    /// A ReplicaSet whose availability went two steps at once is not looked at.
    OneStepAtATime = Unobserved;
    /// A Pod's end counts only when its beginning was seen.
    DeletionUnexpected = Unobserved;
    /// A Pod that is gone stays in EndpointSlices, unless it was seen going.
    GonePodKept = Unobserved;
    /// A kubelet lets a Pod be that it first sees when it goes.
    LeavingPodUnseen = Unobserved;
    /// What happens to a key while it is worked on is lost.
    ChangedWhileHeld = Unobserved;
    /// A watch that is resumed leaves out the first event.
    ResumedTooLate = Unobserved;
    /// The scheduler does not count what it has just placed.
    NothingAssumed = Stale;
    /// A Pod that is bound is bound again.
    BoundAgain = Stale;
    /// A ReplicaSet does not wait to see what it created.
    NothingExpected = Stale;
    /// An owner that no watch has shown counts as gone.
    AbsentUnasked = Stale;
    /// A ReplicaSet is scaled whatever has happened to it.
    ScaledUnconditionally = Stale;
    /// A server answers from what it knows, however old.
    ReadFromCache = Stale;
    /// A change that was made of an old state is taken.
    LastWriteWins = Stale;
    /// A node port is given by what the cache knows.
    PortUnclaimed = Stale;
    /// What a component begins with may be older than what it knew.
    ListFromAnywhere = Stale;
}

#[cfg(feature = "plants")]
mod switch {
    use super::Plant;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Plant>> = const { Cell::new(None) };
    }

    /// Switches a defect on for this thread, or all off.
    pub fn plant(plant: Option<Plant>) {
        PLANTED.set(plant);
    }

    /// Whether a defect is switched on.
    pub fn planted(plant: Plant) -> bool {
        PLANTED.get() == Some(plant)
    }
}

/// Whether a defect is switched on.
#[cfg(not(feature = "plants"))]
pub const fn planted(_: Plant) -> bool {
    false
}

#[cfg(feature = "plants")]
pub use switch::{plant, planted};
