//! An input, read from the front. What is not there any more is zero, so that every input is one.

/// The rest of an input.
#[derive(Debug, Clone)]
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    /// The whole input.
    pub fn new(input: &'a [u8]) -> Script<'a> {
        Script(input)
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// The next bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        array[..taken.len()].copy_from_slice(taken);
        self.0 = rest;
        array
    }

    /// Two bytes, big-endian, and as many bytes as they say.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(u16::from_be_bytes(self.array()));
        let (piece, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        piece
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// What [`Script::piece`] reads: how seeds are written. Cut where the length has no room for it.
pub fn piece(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}
