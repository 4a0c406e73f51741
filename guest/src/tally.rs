//! Whether what arrived is what the architecture says must arrive.

/// What one processor counted of one vector, and what it may count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cell {
    /// The fewest deliveries that are right.
    pub least: u64,
    /// The most deliveries that are right.
    pub most: u64,
    /// Deliveries counted.
    pub received: u64,
}

impl Cell {
    /// Deliveries that are missing.
    pub const fn lost(self) -> u64 {
        self.least.saturating_sub(self.received)
    }

    /// Deliveries that should not have been.
    pub const fn surplus(self) -> u64 {
        self.received.saturating_sub(self.most)
    }
}

/// How the counts of a vector on several processors belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Each processor has its own due.
    Each,
    /// Together they get what together they are due, no matter who: lowest-priority delivery.
    Together,
}

/// Sums over processors and vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tally {
    /// Deliveries that are due.
    pub sent: u64,
    /// Deliveries that were due and came.
    pub received: u64,
    /// Deliveries that were due and did not come.
    pub lost: u64,
    /// Deliveries that were not due but may come: of merged interrupts, say, or of a timer.
    pub extra: u64,
    /// Deliveries that may not come and came.
    pub surplus: u64,
}

impl Tally {
    /// Adds the cells of one vector on all processors.
    pub fn add(&mut self, rule: Rule, cells: impl Iterator<Item = Cell>) {
        let mut sum = Cell::default();
        for cell in cells {
            match rule {
                Rule::Each => self.add_cell(cell),
                Rule::Together => {
                    // Whom a message did not address may not get it, whatever the sum.
                    self.surplus += cell.surplus();
                    sum.least += cell.least;
                    sum.received += cell.received.min(cell.most);
                }
            }
        }
        sum.most = sum.least;
        self.add_cell(sum);
    }

    fn add_cell(&mut self, cell: Cell) {
        self.sent += cell.least;
        self.received += cell.received.min(cell.least);
        self.lost += cell.lost();
        self.surplus += cell.surplus();
        self.extra += cell.received.min(cell.most).saturating_sub(cell.least);
    }

    /// Whether everything came that had to and nothing that may not.
    pub const fn is_right(&self) -> bool {
        self.lost == 0 && self.surplus == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn cell(least: u64, most: u64, received: u64) -> Cell {
        Cell {
            least,
            most,
            received,
        }
    }

    fn tally(rule: Rule, cells: &[Cell]) -> Tally {
        let mut tally = Tally::default();
        tally.add(rule, cells.iter().copied());
        tally
    }

    #[test]
    fn each_has_its_own_due() {
        let exact = tally(Rule::Each, &[cell(3, 3, 3), cell(0, 0, 0)]);
        assert_eq!((exact.sent, exact.received, exact.is_right()), (3, 3, true));
        let crossed = tally(Rule::Each, &[cell(3, 3, 2), cell(0, 0, 1)]);
        assert_eq!(
            (crossed.lost, crossed.surplus, crossed.is_right()),
            (1, 1, false)
        );
        let merged = tally(Rule::Each, &[cell(1, 5, 3)]);
        assert_eq!(
            (
                merged.sent,
                merged.received,
                merged.extra,
                merged.is_right()
            ),
            (1, 1, 2, true)
        );
        assert_eq!(tally(Rule::Each, &[cell(1, 5, 6)]).surplus, 1);
    }

    #[test]
    fn together_it_does_not_matter_who() {
        let spread = tally(
            Rule::Together,
            &[cell(4, 4, 1), cell(0, 4, 3), cell(0, 0, 0)],
        );
        assert_eq!(
            (spread.sent, spread.received, spread.is_right()),
            (4, 4, true)
        );
        let both = tally(Rule::Together, &[cell(4, 4, 4), cell(0, 4, 1)]);
        assert_eq!((both.surplus, both.lost), (1, 0));
        let none = tally(Rule::Together, &[cell(4, 4, 2), cell(0, 4, 1)]);
        assert_eq!((none.surplus, none.lost), (0, 1));
        let outsider = tally(Rule::Together, &[cell(4, 4, 3), cell(0, 0, 1)]);
        assert_eq!((outsider.surplus, outsider.lost), (1, 1));
    }
}
