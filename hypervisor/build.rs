//! Link arguments of the bootable image.

#[path = "../freestanding/link_arguments.rs"]
mod link_arguments;

fn main() {
    link_arguments::print();
}
