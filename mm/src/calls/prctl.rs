//! prctl(2) as far as it is about memory, and personality(2).

use nix::libc;

use super::{Call, done};
use crate::addr::{VirtAddr, low_half};
use crate::error::{CallResult, Errno};
use crate::space::{AUXV_WORDS, Dumpable, LayoutField, MergeAny, NewLayout};
use crate::vma::limits::Capabilities;

/// The longest name of anonymous memory, its end included (`ANON_VMA_NAME_MAX_LEN`).
const NAME_MAX: usize = 80;
/// Bytes of `struct prctl_mm_map`.
const MAP_BYTES: u64 = 104;
/// Bytes of the saved auxiliary vector.
const AUXV_BYTES: u64 = AUXV_WORDS as u64 * 8;
/// `prctl_mm_map.exe_fd` of who does not change the executable.
const NO_FILE: u32 = u32::MAX;

/// prctl(2): the options about memory; any other is `EINVAL`.
pub(super) fn prctl(c: &Call<'_>) -> CallResult<u64> {
    let [_, a, b, rest @ ..] = c.args;
    let [d, e, _] = rest;
    let space = || c.caller.space().change();
    match c.int(0) {
        libc::PR_SET_MM => set_mm(c),
        PR_GET_AUXV => get_auxv(c),
        libc::PR_GET_DUMPABLE => Ok(space().modes().dumpable as u64),
        libc::PR_SET_DUMPABLE => {
            space().modes_mut().dumpable = match a {
                0 => Dumpable::No,
                1 => Dumpable::Yes,
                _ => return Err(Errno::EINVAL.into()),
            };
            Ok(0)
        }
        libc::PR_SET_THP_DISABLE => done(space().set_thp_disable(a, b, [d, e])),
        libc::PR_GET_THP_DISABLE if [a, b, d, e] == [0; 4] => Ok(space().modes().thp_disabled),
        libc::PR_SET_MDWE => done(space().set_mdwe(a, [b, d, e])),
        libc::PR_GET_MDWE => space().mdwe([a, b, d, e]),
        libc::PR_SET_MEMORY_MERGE => {
            let any = if a == 0 { MergeAny::No } else { MergeAny::Yes };
            done(space().set_merge_any(any, [b, d, e]))
        }
        libc::PR_GET_MEMORY_MERGE if [a, b, d, e] == [0; 4] => Ok(space().modes().merge_any as u64),
        libc::PR_SET_VMA if a == SET_VMA_ANON_NAME => set_name(c),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// `PR_GET_AUXV` (include/uapi/linux/prctl.h): "AUXV".
const PR_GET_AUXV: i32 = 0x4155_5856;
const SET_VMA_ANON_NAME: u64 = libc::PR_SET_VMA_ANON_NAME as u64;

/// personality(2): 0xffffffff only asks.
pub(super) fn personality(c: &Call<'_>) -> CallResult<u64> {
    let persona = low_half(c.word(0));
    let mut space = c.caller.space().change();
    let before = space.modes().personality;
    if persona != u32::MAX {
        space.modes_mut().personality = persona;
    }
    Ok(u64::from(before))
}

/// `PR_SET_VMA_ANON_NAME`: the name is read first (`strndup_user`).
fn set_name(c: &Call<'_>) -> CallResult<u64> {
    let name = match c.address(4) {
        VirtAddr::ZERO => None,
        at => Some(read_name(c, at)?),
    };
    done(c.caller.space().change().set_name(c.address(2), c.args[3], name.as_deref()))
}

fn read_name(c: &Call<'_>, from: VirtAddr) -> CallResult<Vec<u8>> {
    let mut name = Vec::new();
    while name.len() < NAME_MAX {
        let mut byte = [0];
        c.read(from.checked_add(name.len() as u64).ok_or(Errno::EFAULT)?, &mut byte)?;
        if byte == [0] {
            return Ok(name);
        }
        name.extend(byte);
    }
    Err(Errno::EINVAL.into())
}

/// `PR_SET_MM` (`prctl_set_mm`).
fn set_mm(c: &Call<'_>) -> CallResult<u64> {
    let [_, field, _, len, last, _] = c.args;
    let takes_length = matches!(field, SET_AUXV | SET_MAP | SET_MAP_SIZE);
    if last != 0 || len != 0 && !takes_length {
        return Err(Errno::EINVAL.into());
    }
    match field {
        SET_MAP_SIZE => {
            c.write(c.address(2), &MAP_BYTES.to_le_bytes()[..4])?;
            return Ok(0);
        }
        SET_MAP => return set_map(c),
        _ => {}
    }
    if !c.caller.space().look().limits().may(Capabilities::SYS_RESOURCE) {
        return Err(Errno::EPERM.into());
    }
    match field {
        SET_EXE_FILE => {
            c.caller.file(c.int(2))?;
            // No descriptor here is a program's.
            Err(Errno::EACCES.into())
        }
        SET_AUXV => {
            if len > AUXV_BYTES {
                return Err(Errno::EINVAL.into());
            }
            let auxv = read_auxv(c, c.address(2), len)?;
            c.caller.space().change().set_auxv(auxv);
            Ok(0)
        }
        _ => {
            let field = LayoutField::from_number(field);
            done(c.caller.space().change().set_mm(field, c.address(2)))
        }
    }
}

/// What of the layout `PR_SET_MM` sets beside single fields.
const SET_AUXV: u64 = libc::PR_SET_MM_AUXV as u64;
const SET_EXE_FILE: u64 = libc::PR_SET_MM_EXE_FILE as u64;
const SET_MAP: u64 = libc::PR_SET_MM_MAP as u64;
const SET_MAP_SIZE: u64 = libc::PR_SET_MM_MAP_SIZE as u64;

/// `PR_SET_MM_MAP`: all fields at once (`prctl_set_mm_map`).
fn set_map(c: &Call<'_>) -> CallResult<u64> {
    if c.args[3] != MAP_BYTES {
        return Err(Errno::EINVAL.into());
    }
    let [fields @ .., auxv_at, last]: [u64; 13] = c.read_words(c.address(2))?;
    let [a, b, c2, d, e, f, g, h] = last.to_le_bytes();
    let auxv_len = u64::from(u32::from_le_bytes([a, b, c2, d]));
    let exe_fd = u32::from_le_bytes([e, f, g, h]);
    let new = NewLayout::from_words(fields);
    c.caller.space().look().check_new_layout(&new)?;
    let auxv_at = VirtAddr::new(auxv_at);
    if auxv_len != 0 && (auxv_at == VirtAddr::ZERO || auxv_len > AUXV_BYTES) {
        return Err(Errno::EINVAL.into());
    }
    let auxv = if auxv_len == 0 { None } else { Some(read_auxv(c, auxv_at, auxv_len)?) };
    if exe_fd != NO_FILE {
        let admin = c.caller.space().look().limits().may(Capabilities::SYS_ADMIN);
        if !admin {
            return Err(Errno::EPERM.into());
        }
        c.caller.file(exe_fd.cast_signed())?;
        return Err(Errno::EACCES.into());
    }
    let mut space = c.caller.space().change();
    space.set_layout(&new)?;
    if let Some(auxv) = auxv {
        space.set_auxv(auxv);
    }
    Ok(0)
}

/// The auxiliary vector, its last pair made the null that ends it.
fn read_auxv(c: &Call<'_>, from: VirtAddr, len: u64) -> CallResult<Vec<u64>> {
    let mut bytes = [[0; 8]; AUXV_WORDS];
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(AUXV_WORDS * 8);
    c.read(from, &mut bytes.as_flattened_mut()[..len])?;
    let mut auxv = bytes.map(u64::from_le_bytes);
    auxv[AUXV_WORDS - 2..].fill(0);
    Ok(auxv.to_vec())
}

/// `PR_GET_AUXV`: answers with the vector's whole length, however much of it was asked for.
fn get_auxv(c: &Call<'_>) -> CallResult<u64> {
    if c.args[3] != 0 || c.args[4] != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut words = c.caller.space().look().layout().auxv.clone();
    words.resize(AUXV_WORDS, 0);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let len = usize::try_from(c.args[2]).unwrap_or(usize::MAX).min(bytes.len());
    c.write(c.address(1), &bytes[..len])?;
    Ok(AUXV_BYTES)
}
