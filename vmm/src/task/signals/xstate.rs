//! The floating-point and vector state in a signal frame: an XSAVE image in the standard format, with what
//! software adds to it (Linux's `arch/x86/kernel/fpu/signal.c`).
//!
//! ```text
//!     0  x87 and SSE, as FXSAVE has them      24 MXCSR, 28 its mask
//!   464  magic 1, extended size, features, size      `struct _fpx_sw_bytes`
//!   512  header: XSTATE_BV, XCOMP_BV, zeros
//!   576  components
//!  size  magic 2
//! ```

use crate::kvm::{HEADER_BYTES, LEGACY_BYTES, X87_AND_SSE, XsaveLayout};

/// Offset of what software adds.
const SOFTWARE: usize = 464;
/// Bytes of it.
const SOFTWARE_BYTES: usize = 48;
/// `FP_XSTATE_MAGIC1`: there is more than FXSAVE's part.
const MAGIC1: u32 = 0x4650_5853;
/// `FP_XSTATE_MAGIC2`, behind the image.
const MAGIC2: u32 = 0x4650_5845;
/// Bytes of it.
const MAGIC2_BYTES: usize = 4;
/// Offset of MXCSR.
const MXCSR: usize = 24;
/// Offset of the x87 registers.
const ST: usize = 32;
/// Offset of the XMM registers.
const XMM: usize = 160;
/// Past the XMM registers.
const XMM_END: usize = 416;
/// Bits of MXCSR that some processor has: all 16, and AMD's MM.
const MXCSR_KNOWN: u32 = 0x2_ffff;
/// The x87 control word at the start.
const FCW_INITIAL: u16 = 0x37f;
/// MXCSR at the start.
const MXCSR_INITIAL: u32 = 0x1f80;
/// XCR0: the upper halves of the YMM registers.
const AVX: u64 = 4;

/// Bytes of the image in a frame, with its second magic number.
#[must_use]
pub(crate) fn frame_bytes(layout: &XsaveLayout) -> u64 {
    (layout.bytes() + MAGIC2_BYTES) as u64
}

/// The image for a frame, of what KVM gives.
#[must_use]
pub(super) fn to_frame(layout: &XsaveLayout, kvm: &[u8]) -> Vec<u8> {
    let size = layout.bytes();
    let mut image = vec![0; size + MAGIC2_BYTES];
    let known = kvm.len().min(size);
    image[..known].copy_from_slice(&kvm[..known]);
    let present = long(&image, LEGACY_BYTES) & layout.features() | X87_AND_SSE;
    image[LEGACY_BYTES..LEGACY_BYTES + HEADER_BYTES].fill(0);
    image[LEGACY_BYTES..LEGACY_BYTES + 8].copy_from_slice(&present.to_le_bytes());
    image[SOFTWARE..SOFTWARE + SOFTWARE_BYTES].fill(0);
    // An image is of at most 4,096 bytes.
    let sizes = [size + MAGIC2_BYTES, size].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
    let [extended, size] = sizes.map(u32::to_le_bytes);
    let features = layout.features().to_le_bytes();
    let software = [&MAGIC1.to_le_bytes()[..], &extended, &features, &size].concat();
    image[SOFTWARE..SOFTWARE + software.len()].copy_from_slice(&software);
    image[layout.bytes()..].copy_from_slice(&MAGIC2.to_le_bytes());
    image
}

/// Why there is no state in a frame: the program gets a `SIGSEGV`, and its state is a fresh program's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoState<E> {
    /// It is none that the processor would take: XRSTOR raises #GP.
    Bad,
    /// It cannot be read.
    Unreadable(E),
}

impl<E> From<E> for NoState<E> {
    fn from(error: E) -> Self {
        NoState::Unreadable(error)
    }
}

/// What a frame's image at the address `at` comes to, as KVM takes it; `read` reads the frame's bytes from an
/// offset on, and each once (`__fpu_restore_sig`).
///
/// Linux also takes an image in the compacted format, which it never writes; here that is a bad one.
///
/// # Errors
/// [`NoState`].
pub(crate) fn from_frame<E>(
    layout: &XsaveLayout,
    at: u64,
    mut read: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
) -> Result<Vec<u8>, NoState<E>> {
    let mut software = [0; SOFTWARE_BYTES];
    read(SOFTWARE, &mut software)?;
    let wanted = extended_features(layout, &software, &mut read)?;
    // FXRSTOR and XRSTOR.
    let alignment = if wanted.is_none() { 16 } else { 64 };
    if !at.is_multiple_of(alignment) {
        return Err(NoState::Bad);
    }
    let mut image = vec![0; layout.bytes()];
    read(0, &mut image[..LEGACY_BYTES])?;
    let (restored, present) = match wanted {
        None => (X87_AND_SSE, X87_AND_SSE),
        Some(features) => {
            let mut header = [0; HEADER_BYTES];
            read(LEGACY_BYTES, &mut header)?;
            let present = long(&header, 0);
            // The processor looks at 16 reserved bytes of 56.
            let reserved = &header[8..24];
            if present & !layout.features() != 0 || reserved.iter().any(|&byte| byte != 0) {
                return Err(NoState::Bad);
            }
            (features & layout.features(), present)
        }
    };
    let given = restored & present;
    for part in layout.components().iter().filter(|part| given >> part.bit & 1 == 1) {
        read(part.offset, &mut image[part.offset..part.offset + part.bytes])?;
    }
    if given & 1 == 0 {
        image[..MXCSR].fill(0);
        image[..2].copy_from_slice(&FCW_INITIAL.to_le_bytes());
        image[ST..XMM].fill(0);
    }
    if given & 2 == 0 {
        image[XMM..XMM_END].fill(0);
    }
    // It is looked at for AVX as much as for SSE, and taken for SSE, present or not.
    if restored & (2 | AVX) != 0 && word(&image, MXCSR) & !MXCSR_KNOWN != 0 {
        return Err(NoState::Bad);
    }
    if restored & 2 == 0 {
        image[MXCSR..MXCSR + 4].copy_from_slice(&MXCSR_INITIAL.to_le_bytes());
    }
    image[XMM_END..LEGACY_BYTES].fill(0);
    image[LEGACY_BYTES..LEGACY_BYTES + 8].copy_from_slice(&(given | X87_AND_SSE).to_le_bytes());
    Ok(image)
}

/// Which components the frame says to have behind FXSAVE's part; `None` for none (`check_xstate_in_sigframe`).
fn extended_features<E>(
    layout: &XsaveLayout,
    software: &[u8; SOFTWARE_BYTES],
    read: &mut impl FnMut(usize, &mut [u8]) -> Result<(), E>,
) -> Result<Option<u64>, NoState<E>> {
    let (magic, extended, features) = (word(software, 0), word(software, 4), long(software, 8));
    let size = word(software, 16);
    let bytes = usize::try_from(size).unwrap_or(usize::MAX);
    let fits = (LEGACY_BYTES + HEADER_BYTES..=layout.bytes()).contains(&bytes);
    if magic != MAGIC1 || !fits || size > extended {
        return Ok(None);
    }
    let mut magic = [0; MAGIC2_BYTES];
    read(bytes, &mut magic)?;
    Ok((u32::from_le_bytes(magic) == MAGIC2).then_some(features))
}

/// The exceptions that are raised and not masked, of x87 and SSE, in what KVM gives.
#[must_use]
pub(crate) fn raised(kvm: &[u8]) -> u32 {
    let (control, mxcsr) = (word(kvm, 0), word(kvm, MXCSR));
    let (control, status) = (control & 0xffff, control >> 16);
    (status & !control | mxcsr & !(mxcsr >> 7)) & 0x3f
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    word.map_or(0, u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let long = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    long.map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::Component;

    /// x87, SSE and AVX.
    fn layout() -> XsaveLayout {
        XsaveLayout::new(vec![Component { bit: 2, offset: 576, bytes: 256 }])
    }

    /// As KVM gives it, each register's bytes its own.
    fn kvm() -> Vec<u8> {
        let mut image: Vec<u8> = (0..4096_u32).map(|index| index.to_le_bytes()[0]).collect();
        image[..2].copy_from_slice(&FCW_INITIAL.to_le_bytes());
        image[MXCSR..MXCSR + 4].copy_from_slice(&0x1fa0_u32.to_le_bytes());
        image[512..576].fill(0);
        image[512] = 7;
        image
    }

    fn restored(frame: &[u8], at: u64) -> Result<Vec<u8>, NoState<()>> {
        from_frame(&layout(), at, |offset, into| {
            let bytes = frame.get(offset..offset + into.len()).ok_or(())?;
            into.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>, NoState<()>> {
        let mut frame = to_frame(&layout(), &kvm());
        change(&mut frame);
        restored(&frame, 64)
    }

    #[test]
    fn an_image_has_its_sizes_and_magic_numbers() {
        let frame = to_frame(&layout(), &kvm());
        assert_eq!(frame.len() as u64, frame_bytes(&layout()));
        assert_eq!(frame.len(), 836);
        let words = [464, 468, 480, 832].map(|at| word(&frame, at));
        assert_eq!(words, [MAGIC1, 836, 832, MAGIC2]);
        assert_eq!((long(&frame, 472), long(&frame, 512)), (7, 7));
    }

    #[test]
    fn what_is_in_a_frame_comes_back() {
        let back = changed(|_| ()).unwrap();
        assert_eq!(back.len(), 832);
        let kvm = kvm();
        for range in [0..XMM_END, 512..832] {
            assert_eq!(back[range.clone()], kvm[range]);
        }
    }

    #[test]
    fn components_that_are_not_given_are_at_their_start_but_for_mxcsr() {
        let back = changed(|frame| frame[512] = 0).unwrap();
        assert_eq!((word(&back, 0), word(&back, MXCSR)), (0x37f, 0x1fa0));
        assert!(back[ST..XMM_END].iter().all(|&byte| byte == 0));
        assert_eq!(long(&back, 512), X87_AND_SSE);
        // Not asked for by what software says.
        let back = changed(|frame| frame[472] = 1).unwrap();
        assert_eq!(word(&back, MXCSR), MXCSR_INITIAL);
        assert_eq!(back[ST..XMM], kvm()[ST..XMM]);
    }

    #[test]
    fn a_frame_without_its_magic_numbers_has_x87_and_sse_alone() {
        for change in [464, 832, 468, 480] {
            let back = changed(|frame| frame[change..change + 4].fill(0)).unwrap();
            assert_eq!(long(&back, 512), X87_AND_SSE, "{change}");
            assert_eq!(back[..XMM_END], kvm()[..XMM_END], "{change}");
        }
        let mut frame = to_frame(&layout(), &kvm());
        frame[464] = 0;
        frame.truncate(LEGACY_BYTES);
        assert!(restored(&frame, 16).is_ok(), "no more is read");
        assert_eq!(restored(&frame, 8), Err(NoState::Bad));
    }

    #[test]
    fn what_xrstor_refuses_is_bad() {
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change); 5] = [
            ("a component that is not there", |frame| frame[513] = 1),
            ("protection keys", |frame| frame[513] = 2),
            ("the compacted format", |frame| frame[527] = 0x80),
            ("the header's reserved bytes", |frame| frame[535] = 1),
            ("MXCSR's reserved bits", |frame| frame[27] = 0x80),
        ];
        for (what, change) in cases {
            assert_eq!(changed(change), Err(NoState::Bad), "{what}");
        }
        assert!(changed(|frame| frame[536] = 1).is_ok());
        let frame = to_frame(&layout(), &kvm());
        assert_eq!(restored(&frame, 16), Err(NoState::Bad), "alignment");
        assert_eq!(restored(&frame[..600], 64), Err(NoState::Unreadable(())));
    }

    #[test]
    fn an_exception_counts_where_it_is_not_masked() {
        let mut image = vec![0; 32];
        image[..4].copy_from_slice(&[0x7b, 3, 4, 0]);
        image[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        assert_eq!(raised(&image), 4, "ZE of x87");
        image[..4].copy_from_slice(&[0x7f, 3, 4, 0]);
        image[24..28].copy_from_slice(&0x1d84_u32.to_le_bytes());
        assert_eq!(raised(&image), 4, "ZE of SSE");
    }
}
