//! How the server's seats are divided among priority levels that lend and borrow (KEP-1040).

/// One level: what it should have, and the bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    pub target: f64,
    pub least: f64,
    pub most: f64,
}

const SMALLEST_TARGET: f64 = 0.001;

/// Shares `sum` so that each class gets one common proportion of its target, within its bounds; `None` when the bounds
/// cannot be met. Also that proportion.
///
/// The allocation is a growing, piecewise linear function of the proportion, so a bisection finds it to well below the
/// half seat that rounding takes away.
pub(super) fn divide(sum: f64, classes: &[Class]) -> Option<(Vec<f64>, f64)> {
    let least: f64 = classes.iter().map(|c| c.least).sum();
    let most: f64 = classes.iter().map(|c| c.most).sum();
    if sum < least - 1e-7 || sum > most + 1e-7 || classes.iter().any(|c| c.most < c.least) {
        return None;
    }
    let at = |proportion: f64| -> Vec<f64> {
        let part = |c: &Class| (proportion * c.target.max(SMALLEST_TARGET)).min(c.most).max(c.least);
        classes.iter().map(part).collect()
    };
    let mut low = 0.0;
    let mut high = classes.iter().map(|c| c.most / c.target.max(SMALLEST_TARGET)).fold(1.0, f64::max);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if at(middle).iter().sum::<f64>() < sum {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some((at(high), high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_keep_their_bounds_and_add_up(
            rows in prop::collection::vec((0.0..50.0f64, 0.0..50.0f64, 0.0..200.0f64), 1..9),
            part in 0.0..1.0f64,
        ) {
            let classes: Vec<Class> = rows
                .iter()
                .map(|(least, more, room)| Class { target: least + more, least: *least, most: least + room })
                .collect();
            let (least, most) = classes.iter().fold((0.0, 0.0), |(l, m), c| (l + c.least, m + c.most));
            let sum = least + (most - least) * part;
            let (parts, proportion) = divide(sum, &classes).unwrap();
            prop_assert!((parts.iter().sum::<f64>() - sum).abs() < 0.01);
            for (got, class) in parts.iter().zip(&classes) {
                prop_assert!(*got >= class.least - 1e-9 && *got <= class.most + 1e-9);
                let fair = proportion * class.target.max(SMALLEST_TARGET);
                // Off the common proportion only where a bound says so.
                prop_assert!(
                    (got - fair).abs() < 1e-6 || *got >= class.most - 1e-6 || *got <= class.least + 1e-6
                );
            }
        }
    }

    #[test]
    fn impossible_bounds_are_refused() {
        let class = Class { target: 5.0, least: 5.0, most: 10.0 };
        assert!(divide(4.0, &[class]).is_none());
        assert!(divide(11.0, &[class]).is_none());
        assert_eq!(divide(7.0, &[class]).unwrap().0[0].round(), 7.0);
    }
}
