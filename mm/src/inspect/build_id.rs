//! The identity that a linker has given a program or library: a note in its file (Linux's `lib/buildid.c`).

use crate::addr::index;

/// The longest that is known (`BUILD_ID_SIZE_MAX`).
const LONGEST: usize = 20;
/// The most program headers that are looked at.
const HEADERS: u16 = 256;
/// The most bytes of notes that are looked at, of one program header.
const NOTES: u64 = 1 << 16;
/// Bytes of an ELF file's header, of a program header, of a note's header.
const FILE_HEADER: usize = 64;
const HEADER: usize = 56;
const NOTE: usize = 12;
const PT_NOTE: u32 = 4;
/// `NT_GNU_BUILD_ID`, and whose it is.
const BUILD_ID: u32 = 3;
const OWNER: &[u8] = b"GNU\0";

/// The identity in a 64-bit ELF file, of which `read` has the bytes from an offset on; it says how many there were.
#[must_use]
pub fn build_id(read: impl Fn(u64, &mut [u8]) -> usize) -> Option<Vec<u8>> {
    let exact = |offset: u64, into: &mut [u8]| (read(offset, into) == into.len()).then_some(());
    let mut file = [0; FILE_HEADER];
    exact(0, &mut file)?;
    // Of 64 bits; a program, or a library.
    let known = file.starts_with(b"\x7fELF\x02") && matches!(half(&file, 16), 2 | 3);
    let (headers, count) = (long(&file, 32), half(&file, 56).min(HEADERS));
    if !known {
        return None;
    }
    (0..u64::from(count)).find_map(|number| {
        let mut header = [0; HEADER];
        exact(headers.checked_add(number * HEADER as u64)?, &mut header)?;
        if word(&header, 0) != PT_NOTE {
            return None;
        }
        let mut notes = vec![0; index(long(&header, 32).min(NOTES))];
        let count = read(long(&header, 8), &mut notes);
        in_notes(notes.get(..count)?)
    })
}

fn in_notes(mut notes: &[u8]) -> Option<Vec<u8>> {
    while notes.len() > NOTE + OWNER.len() {
        let [name, len] = [word(notes, 0), word(notes, 4)].map(|len| index(u64::from(len)));
        let from = NOTE + name.next_multiple_of(4);
        if word(notes, 8) == BUILD_ID && notes[NOTE..].starts_with(OWNER) && name == OWNER.len() {
            let id = notes.get(from..from + len).filter(|id| (1..=LONGEST).contains(&id.len()));
            if let Some(id) = id {
                return Some(id.to_vec());
            }
        }
        notes = notes.get(from + len.next_multiple_of(4)..)?;
    }
    None
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Option<Vec<u8>> {
        build_id(|offset, into| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let count = (bytes.len() - from).min(into.len());
            into[..count].copy_from_slice(&bytes[from..from + count]);
            count
        })
    }

    fn file(notes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FILE_HEADER + HEADER];
        bytes[..5].copy_from_slice(b"\x7fELF\x02");
        (bytes[16], bytes[32], bytes[56]) = (2, 64, 1);
        bytes[64] = 4;
        bytes[64 + 8] = 120;
        bytes[64 + 32..64 + 34].copy_from_slice(&u16::try_from(notes.len()).unwrap().to_le_bytes());
        bytes.extend(notes);
        bytes
    }

    fn note(name: &[u8], kind: u32, id: &[u8]) -> Vec<u8> {
        let lens = [name.len(), id.len()].map(|len| u32::try_from(len).unwrap().to_le_bytes());
        let mut note = [lens[0], lens[1], kind.to_le_bytes()].concat();
        for part in [name, id] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn a_note_is_found_behind_others() {
        let notes =
            [note(b"Go\0", 4, b"other"), note(OWNER, 1, b"abi"), note(OWNER, 3, b"identity")];
        assert_eq!(of(&file(&notes.concat())).as_deref(), Some(&b"identity"[..]));
    }

    #[test]
    fn what_is_no_such_note_is_none() {
        for notes in [note(b"GNU", 3, b"x"), note(OWNER, 3, b""), note(OWNER, 3, &[1; 21])] {
            assert_eq!(of(&file(&notes)), None);
        }
        let mut long = note(OWNER, 3, b"x");
        long[4..8].fill(0xff);
        assert_eq!(of(&file(&long)), None);
        for len in 0..FILE_HEADER + HEADER {
            assert_eq!(of(&file(&note(OWNER, 3, b"x"))[..len]), None);
        }
    }
}
