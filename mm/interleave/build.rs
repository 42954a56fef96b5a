//! Says which `std` the memory manager is built over.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(interleave)");
    println!("cargo::rustc-cfg=interleave");
}
