use super::*;

/// As the last call left it, of who has given up to be root.
fn nobody() -> Credentials {
    let mut who = Credentials::default();
    who.set_users(NewIds::Three(99, 99, 99)).unwrap();
    who
}

#[test]
fn who_gives_up_to_be_root_in_all_ways_can_do_nothing() {
    let mut who = nobody();
    assert_eq!((who.capabilities().permitted, who.capabilities().effective), (0, 0));
    assert_eq!(who.set_users(NewIds::One(0)), Err(Errno::EPERM));
    assert_eq!(who.of_memory(), Capabilities::empty());
}

#[test]
fn who_is_root_only_in_reserve_gets_it_all_back() {
    let mut who = Credentials::default();
    let all = *who.capabilities();
    who.set_users(NewIds::Two(u32::MAX, 99)).unwrap();
    assert_eq!((who.uids.saved, who.capabilities().effective), (99, 0));
    assert_eq!(who.capabilities().permitted, all.permitted);
    who.set_users(NewIds::Three(u32::MAX, 0, u32::MAX)).unwrap();
    assert_eq!(who.capabilities(), &all);
}

#[test]
fn who_keeps_capabilities_has_them_but_not_in_effect() {
    let mut who = Credentials::default();
    who.set_keeps(1).unwrap();
    who.set_users(NewIds::One(99)).unwrap();
    assert_ne!(who.capabilities().permitted, 0);
    assert_eq!(who.capabilities().effective, 0);
}

#[test]
fn a_user_of_files_takes_only_the_capabilities_of_files_along() {
    let mut who = Credentials::default();
    assert_eq!(who.set_file_user(99), 0);
    assert!(!who.may(Capability::DAC_OVERRIDE) && who.may(Capability::KILL));
    assert_eq!(who.set_file_user(u32::MAX), 99);
    assert_eq!(who.set_file_user(0), 99);
    assert!(who.may(Capability::DAC_OVERRIDE));
}

#[test]
fn capabilities_can_only_become_fewer() {
    let mut who = Credentials::default();
    let lock = Capability::IPC_LOCK.bit();
    let only = |effective, permitted| Fields { effective, permitted, inheritable: 0 };
    who.set_capabilities(only(0, lock)).unwrap();
    assert_eq!(who.of_memory(), Capabilities::empty());
    who.set_capabilities(only(lock, lock)).unwrap();
    assert_eq!(who.of_memory(), Capabilities::IPC_LOCK);
    assert_eq!(who.set_capabilities(only(lock | 1, lock | 1)), Err(Errno::EPERM));
    assert_eq!(who.set_capabilities(only(lock, 0)), Err(Errno::EPERM));
}

#[test]
fn root_has_all_again_in_another_program_and_others_have_nothing() {
    let mut who = Credentials::default();
    let all = *who.capabilities();
    who.set_capabilities(Fields { effective: 0, permitted: 0, inheritable: 0 }).unwrap();
    assert_eq!(who.executed().capabilities(), &all);
    assert_eq!(nobody().executed().capabilities().permitted, 0);
}

#[test]
fn an_ambient_capability_outlives_execution() {
    let mut who = Credentials::default();
    let lock = Capability::IPC_LOCK;
    assert_eq!(who.ambient(Ambient::Raise(14)), Err(Errno::EPERM));
    let all = who.capabilities().permitted;
    let fields = Fields { effective: all, permitted: all, inheritable: lock.bit() };
    who.set_capabilities(fields).unwrap();
    who.ambient(Ambient::Raise(14)).unwrap();
    assert!(who.executed().may(lock));
    who.set_keeps(1).unwrap();
    who.set_users(NewIds::One(99)).unwrap();
    assert_eq!(who.ambient(Ambient::IsSet(14)), Ok(0));
}

#[test]
fn locks_of_secure_bits_stay() {
    let mut who = Credentials::default();
    who.set_secure_bits(0b11).unwrap();
    assert_eq!(who.set_secure_bits(0b10), Err(Errno::EPERM));
    assert_eq!(who.set_secure_bits(0b01), Err(Errno::EPERM));
    assert_eq!(who.set_secure_bits(1 << 20), Err(Errno::EPERM));
    who.set_secure_bits(0b111).unwrap();
}

#[test]
fn signals_go_to_one_s_own_and_from_who_may() {
    let (root, who) = (Credentials::default(), nobody());
    assert!(root.may_signal(&who) && who.may_signal(&who));
    assert!(!who.may_signal(&root));
}

#[test]
fn groups_are_found_however_they_were_given() {
    let mut who = Credentials::default();
    who.set_groups(vec![9, 3, 7]).unwrap();
    assert!(who.is_in(3) && who.is_in(9) && who.is_in(0) && !who.is_in(4));
    assert_eq!(nobody().set_groups(Vec::new()), Err(Errno::EPERM));
}
