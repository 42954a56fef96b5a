//! When the host has no mapping left to split, the notifier gives way to the dummy slot. A process of its
//! own: it uses up every mapping that the host allows one.

#![allow(unsafe_code, reason = "maps pages by the thousand")]

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use mm::addr::{Frame, FrameRun};
use mm::paging::{FlushRequest, FlushSink};
use mm::phys::PhysMemory;
use vmm::kvm::{FlushPolicy, Kvm, KvmSink, Vm};

/// Maps single pages, alternately readable and not so that none merges, until the host refuses.
fn use_up_mappings() {
    for n in 0_u64.. {
        let protection = if n % 2 == 0 { libc::PROT_READ } else { libc::PROT_NONE };
        // SAFETY: a new mapping at an address that the kernel chooses touches no other.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                4096,
                protection,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return;
        }
    }
}

#[test]
fn a_notifier_that_the_host_refuses_gives_way_to_the_dummy_slot() {
    if std::env::var_os("MMVISOR_NO_KVM").is_some_and(|value| value == "1") {
        eprintln!("skipped: MMVISOR_NO_KVM=1");
        return;
    }
    let kvm = Kvm::open().expect("this test needs KVM (MMVISOR_NO_KVM=1 skips it)");
    let vm = Vm::new(&kvm, 64 << 20, 1).unwrap();
    let sink = KvmSink::new(&vm, FlushPolicy::NotifierOnly, Arc::new(AtomicU64::new(0))).unwrap();
    let page = Frame::new(100);
    vm.memory().zero(page);
    let leaves = vec![FrameRun { start: page, count: 1 }];
    let request = FlushRequest { leaves, ..FlushRequest::default() };

    sink.flush(&request).unwrap();
    assert_eq!((sink.counts().notifier, sink.counts().fallbacks), (1, 0));
    use_up_mappings();
    sink.flush(&request).unwrap();
    assert_eq!((sink.counts().notifier, sink.counts().fallbacks), (1, 1));
    assert_eq!(sink.counts().dummy_slot, 1);
}
