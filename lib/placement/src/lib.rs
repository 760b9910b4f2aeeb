//! Pure placement rules with typed reasons, shared by scheduler, controllers, kubelet admission and `describe`.
