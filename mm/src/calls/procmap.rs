//! The ioctl of `/proc/PID/maps` (Linux's `do_procmap_query`, `fs/proc/task_mmu.c`).

use super::{Call, Caller};
use crate::addr::{VirtAddr, index};
use crate::error::{CallResult, Errno};
use crate::inspect::{Asked, FoundVma, build_id, query_vma};
use crate::space::SharedSpace;

/// `PROCMAP_QUERY` (include/uapi/linux/fs.h): asks for one VMA.
pub const PROCMAP_QUERY: u64 = 0xc068_6611;

/// Words of `struct procmap_query`: size, flags, address; start, end, flags, bytes of a page, offset, inode; device;
/// sizes of name and build ID; their addresses.
const WORDS: usize = 13;
/// The least size that a program may know: up to the address.
const LEAST: u64 = 24;
/// The most.
const MOST: u64 = 4096;
/// The longest name (`PATH_MAX`).
const LONGEST_NAME: u64 = 4096;

/// `PROCMAP_QUERY` of an address space, `None` if that has ended; `argument` is the pointer that the program passed.
///
/// # Errors
/// In this order: `EFAULT` its size cannot be read; `E2BIG` it is more than a page, `EINVAL` too small; `E2BIG` there is
/// something behind what is known; `EFAULT` the rest; `EINVAL` unknown flags, a buffer without a size or a size without a
/// buffer; `ESRCH` the space has ended; `ENOENT` no such VMA; `ENAMETOOLONG` a buffer is too small; `EFAULT` something
/// cannot be written.
pub fn procmap_query(
    caller: &dyn Caller,
    of: Option<&SharedSpace>,
    argument: VirtAddr,
) -> CallResult<u64> {
    let c = Call { caller, args: [0; 6] };
    let [size] = c.read_words(argument)?;
    let mut words = read(&c, argument, size)?;
    let [_, flags, addr, .., sizes, name_at, id_at] = words;
    let [name_size, id_size] = [sizes & u64::from(u32::MAX), sizes >> 32];
    let asked = Asked::from_bits(flags).ok_or(Errno::EINVAL)?;
    if (name_size == 0) != (name_at == 0) || (id_size == 0) != (id_at == 0) {
        return Err(Errno::EINVAL.into());
    }
    let space = of.ok_or(Errno::ESRCH)?;
    let found = query_vma(&space.look(), VirtAddr::new(addr), asked).ok_or(Errno::ENOENT)?;
    let id = if id_size == 0 { Vec::new() } else { id_of(&found) };
    let name = if name_size == 0 { Vec::new() } else { name_of(&found) };
    let too_long = id.len() as u64 > id_size || name.len() as u64 > name_size.min(LONGEST_NAME);
    if too_long {
        return Err(Errno::ENAMETOOLONG.into());
    }
    c.write(VirtAddr::new(name_at), &name)?;
    c.write(VirtAddr::new(id_at), &id)?;
    let line = &found.line;
    let device = u64::from(line.name.major) | u64::from(line.name.minor) << 32;
    let inode = if found.backing.is_some() { line.name.inode } else { 0 };
    words[3..12].copy_from_slice(&[
        line.range.start().get(),
        line.range.end().get(),
        found.permissions.bits(),
        found.page_size,
        line.offset,
        inode,
        device,
        name.len() as u64 | (id.len() as u64) << 32,
        name_at,
    ]);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    c.write(argument, &bytes[..index(size).min(bytes.len())])?;
    Ok(0)
}

/// The argument, of a program that may know less of it, or more, than there is (`copy_struct_from_user`).
fn read(c: &Call<'_>, argument: VirtAddr, size: u64) -> CallResult<[u64; WORDS]> {
    if size > MOST {
        return Err(Errno::E2BIG.into());
    }
    if size < LEAST {
        return Err(Errno::EINVAL.into());
    }
    let mut words = [[0; 8]; WORDS];
    let known = words.as_flattened_mut();
    let len = index(size).min(known.len());
    let mut behind = vec![0; index(size) - len];
    c.read(argument.checked_add(len as u64).ok_or(Errno::EFAULT)?, &mut behind)?;
    if behind.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    c.read(argument, &mut known[..len])?;
    Ok(words.map(u64::from_le_bytes))
}

/// Its name with the zero that ends it, or nothing.
fn name_of(found: &FoundVma) -> Vec<u8> {
    let mut name = found.line.name.path.clone().into_bytes();
    if !name.is_empty() {
        name.push(0);
    }
    name
}

/// The identity of the file's build, or nothing.
fn id_of(found: &FoundVma) -> Vec<u8> {
    let read =
        |backing: &dyn crate::backing::Backing| build_id(|at, into| backing.read_file(at, into));
    found.backing.as_deref().and_then(read).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_the_structure_s() {
        // The request's number has its size.
        assert_eq!(PROCMAP_QUERY >> 16 & 0x3fff, WORDS as u64 * 8);
    }
}
