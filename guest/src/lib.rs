//! The guest that checks inter-processor interrupts.
#![cfg_attr(not(test), no_std)]
