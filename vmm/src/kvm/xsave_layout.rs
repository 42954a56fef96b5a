//! Where the parts of an XSAVE image lie, in the standard format (Intel SDM volume 1, section 13.4).

/// Bytes of the x87 and SSE state, as FXSAVE has it.
pub const LEGACY_BYTES: usize = 512;
/// Bytes of the header behind it.
pub const HEADER_BYTES: usize = 64;
/// XCR0: x87 and SSE, which have no part of their own.
pub const X87_AND_SSE: u64 = 3;

/// A component behind the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Component {
    /// Its bit in XCR0.
    pub bit: u32,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// Its bytes.
    pub bytes: usize,
}

/// The parts that a vCPU's image has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XsaveLayout {
    features: u64,
    components: Vec<Component>,
    bytes: usize,
}

impl XsaveLayout {
    /// Of x87, SSE and these.
    #[must_use]
    pub fn new(components: Vec<Component>) -> Self {
        let features = components.iter().fold(X87_AND_SSE, |bits, part| bits | 1 << part.bit);
        let ends = components.iter().map(|part| part.offset + part.bytes);
        let bytes = ends.fold(LEGACY_BYTES + HEADER_BYTES, usize::max);
        XsaveLayout { features, components, bytes }
    }

    /// A bit for each component, as XCR0 has them.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Bytes of the whole image.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The components behind the header.
    #[must_use]
    pub fn components(&self) -> &[Component] {
        &self.components
    }
}
