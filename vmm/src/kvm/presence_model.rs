//! Whether a flush may spare the grace slot, under loom: a vCPU that enters `KVM_RUN`, faults and leaves, and
//! one who changes the entry and flushes, in every order, with every value that a load may see.

// The code itself, with `super::sync` being this module's.
#[path = "presence.rs"]
#[allow(clippy::duplicate_mod, reason = "once over each kind of atomics")]
mod presence;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
    pub(super) use loom::sync::{Arc, Mutex};
}

use loom::thread;
use presence::{Place, Presence};
use sync::{Arc, AtomicU64, Mutex, Ordering};

const ROOT: u64 = 0x1000;
const OLD: u64 = 1;
const NEW: u64 = 2;
/// Nothing is installed.
const NOTHING: u64 = 0;

/// An entry of the guest's page table, and what KVM makes of it.
struct Machine {
    presence: Presence,
    entry: AtomicU64,
    /// What KVM has installed. Its lock is KVM's own.
    installed: Mutex<u64>,
    /// Held from KVM's look at the entry until it is installed: what a grace slot waits for
    /// (`srcu_read_lock`).
    handling: Mutex<()>,
}

impl Machine {
    /// One page fault, from the entry into `KVM_RUN` to its return.
    fn fault(&self, place: &Place) {
        let inside = place.enter(ROOT);
        {
            let _handling = self.handling.lock().unwrap();
            let entry = self.entry.load(Ordering::Relaxed);
            *self.installed.lock().unwrap() = entry;
        }
        drop(inside);
    }

    /// A change of the entry, and its flush as `KvmSink` makes it.
    fn change(&self, spare: fn(&Presence) -> bool) {
        self.entry.swap(NEW, Ordering::AcqRel);
        if !spare(&self.presence) {
            drop(self.handling.lock().unwrap());
        }
        *self.installed.lock().unwrap() = NOTHING;
    }
}

fn flush_beside_a_fault(spare: fn(&Presence) -> bool) {
    loom::model(move || {
        let machine = Arc::new(Machine {
            presence: Presence::default(),
            entry: AtomicU64::new(OLD),
            installed: Mutex::new(NOTHING),
            handling: Mutex::new(()),
        });
        let place = machine.presence.add();
        let other = Arc::clone(&machine);
        let vcpu = thread::spawn(move || other.fault(&place));
        machine.change(spare);
        // No translation by the old entry from here on, whatever the vCPU was or is about to do.
        let installed = *machine.installed.lock().unwrap();
        assert!(installed != OLD, "the old entry is installed after the flush");
        vcpu.join().unwrap();
        assert!(*machine.installed.lock().unwrap() != OLD, "the old entry was installed later");
    });
}

#[test]
#[cfg_attr(miri, ignore = "loom switches stacks by itself")]
fn the_grace_is_spared_only_where_nobody_can_install_the_old_entry() {
    flush_beside_a_fault(|presence| !presence.is_any_inside(Some(ROOT)));
}

#[test]
#[should_panic(expected = "the old entry")]
#[cfg_attr(miri, ignore = "loom switches stacks by itself")]
fn without_the_grace_an_old_entry_can_be_installed_after_the_flush() {
    flush_beside_a_fault(|_| true);
}
