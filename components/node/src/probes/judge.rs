//! When a row of probe results changes the verdict.

#[derive(Clone, Debug)]
pub struct Judge {
    verdict: Option<bool>,
    last: Option<bool>,
    row: i32,
}

impl Judge {
    /// The verdict that holds before the first look, if there is one.
    pub fn new(initial: Option<bool>) -> Self {
        Self { verdict: initial, last: None, row: 0 }
    }

    /// Takes in one result. Answers the verdict when it is a new one.
    pub fn see(&mut self, success: bool, need_ok: i32, need_bad: i32) -> Option<bool> {
        if self.last == Some(success) {
            self.row = self.row.saturating_add(1);
        } else {
            self.last = Some(success);
            self.row = 1;
        }
        let need = if success { need_ok } else { need_bad };
        if self.row < need.max(1) || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        Some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let mut j = Judge::new(Some(true));
        assert_eq!(j.see(false, 1, 3), None);
        assert_eq!(j.see(false, 1, 3), None);
        assert_eq!(j.see(true, 1, 3), None);
        assert_eq!(j.see(false, 1, 3), None);
        assert_eq!(j.see(false, 1, 3), None);
        assert_eq!(j.see(false, 1, 3), Some(false));
        assert_eq!(j.see(false, 1, 3), None);
        assert_eq!(j.see(true, 2, 3), None);
        assert_eq!(j.see(true, 2, 3), Some(true));
    }

    #[test]
    fn the_first_success_counts() {
        assert_eq!(Judge::new(None).see(true, 1, 3), Some(true));
        assert_eq!(Judge::new(Some(false)).see(true, 1, 3), Some(true));
        assert_eq!(Judge::new(Some(false)).see(false, 1, 1), None);
    }
}
