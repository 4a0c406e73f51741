//! The bootable guest image. It vanishes under `cfg(test)`: the test harness needs what a
//! freestanding image has not.
#![cfg_attr(not(test), no_std, no_main)]

#[cfg(not(test))]
mod image;

#[cfg(test)]
fn main() {}
