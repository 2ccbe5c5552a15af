//! A set of small numbers, some of them kept for those who ask by name.

/// Numbers `0..size`; [`take_any`](Self::take_any) prefers those past the band.
pub struct Bitmap {
    bits: Vec<u64>,
    size: usize,
    band: usize,
    free: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeError {
    Taken,
    OutOfRange,
}

impl Bitmap {
    pub fn new(size: usize, band: usize) -> Self {
        Self { bits: vec![0; size.div_ceil(64)], size, band: band.min(size), free: size }
    }

    fn has(&self, at: usize) -> bool {
        self.bits[at / 64] & (1 << (at % 64)) != 0
    }

    pub fn take(&mut self, at: usize) -> Result<(), TakeError> {
        if at >= self.size {
            return Err(TakeError::OutOfRange);
        }
        if self.has(at) {
            return Err(TakeError::Taken);
        }
        self.bits[at / 64] |= 1 << (at % 64);
        self.free -= 1;
        Ok(())
    }

    pub fn free(&mut self, at: usize) {
        if at < self.size && self.has(at) {
            self.bits[at / 64] &= !(1 << (at % 64));
            self.free += 1;
        }
    }

    /// A free number at random: past the band while there is one, then within it.
    pub fn take_any(&mut self) -> Option<usize> {
        if self.free == 0 {
            return None;
        }
        let found = self.scan(self.band, self.size).or_else(|| self.scan(0, self.band))?;
        self.take(found).ok().map(|()| found)
    }

    fn scan(&self, low: usize, high: usize) -> Option<usize> {
        if low >= high {
            return None;
        }
        let start = rand::random_range(low..high);
        (start..high).chain(low..start).find(|at| !self.has(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_band_is_used_last() {
        let mut b = Bitmap::new(100, 20);
        for _ in 0..80 {
            assert!(b.take_any().unwrap() >= 20);
        }
        for _ in 0..20 {
            assert!(b.take_any().unwrap() < 20);
        }
        assert_eq!(b.take_any(), None);
        b.free(50);
        assert_eq!(b.take_any(), Some(50));
        assert_eq!(b.take(50), Err(TakeError::Taken));
        assert_eq!(b.take(100), Err(TakeError::OutOfRange));
    }
}
