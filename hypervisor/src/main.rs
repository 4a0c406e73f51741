//! The bootable image. `cargo test --all-targets` compiles even a `test = false` binary against
//! libtest, so the freestanding image vanishes under `cfg(test)`.
#![cfg_attr(not(test), no_std, no_main)]

#[cfg(not(test))]
mod image;
