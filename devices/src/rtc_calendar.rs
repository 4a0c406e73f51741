//! Dates and times as the real-time clock counts them.

/// A date and time of the Gregorian calendar, no time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DateTime {
    /// 0..=9999.
    pub year: u16,
    /// 1..=12.
    pub month: u8,
    /// 1..=31.
    pub day: u8,
    /// 0..=23.
    pub hour: u8,
    /// 0..=59.
    pub minute: u8,
    /// 0..=59.
    pub second: u8,
}

impl DateTime {
    /// Midnight of 1 January 2000.
    pub const EPOCH: Self = Self {
        year: 2000,
        month: 1,
        day: 1,
        hour: 0,
        minute: 0,
        second: 0,
    };

    /// The time `seconds` later, to the end of year 9999. Fields out of range carry into the next:
    /// 30 February is 1 or 2 March.
    pub fn plus_seconds(self, seconds: u64) -> Self {
        let in_day =
            u64::from(self.hour) * 3600 + u64::from(self.minute) * 60 + u64::from(self.second);
        let total = in_day.saturating_add(seconds);
        let days = self.day_number().saturating_add(total / 86_400);
        let rest = total % 86_400;
        let (year, month, day) = date_of(days.min(LAST_DAY));
        Self {
            year,
            month,
            day,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    /// Day of the week, 1 is Sunday (MC146818A table 3).
    pub fn day_of_week(self) -> u8 {
        // Day 0, 1 January of year 0, was a Saturday.
        ((self.day_number() + 6) % 7 + 1) as u8
    }

    /// Days since 1 January of year 0.
    fn day_number(self) -> u64 {
        let month = usize::from(self.month.clamp(1, 12)) - 1;
        let year = u64::from(self.year);
        let leap_day = u64::from(month >= 2 && is_leap(year));
        days_before_year(year)
            + DAYS_BEFORE_MONTH.get(month).copied().unwrap_or(0)
            + leap_day
            + u64::from(self.day.max(1))
            - 1
    }
}

const DAYS_BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
/// 31 December 9999.
const LAST_DAY: u64 = days_before_year(10_000) - 1;

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Days from 1 January of year 0 to 1 January of `year`.
const fn days_before_year(year: u64) -> u64 {
    if year == 0 {
        return 0;
    }
    let past = year - 1;
    // Year 0 is itself a leap year.
    year * 365 + past / 4 - past / 100 + past / 400 + 1
}

fn date_of(days: u64) -> (u16, u8, u8) {
    // 366 days a year never overshoots; a few steps correct it.
    let mut year = days / 366;
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    let in_year = days - days_before_year(year);
    let leap = u64::from(is_leap(year));
    let starts = |month: usize| {
        DAYS_BEFORE_MONTH.get(month).copied().unwrap_or(0) + if month >= 2 { leap } else { 0 }
    };
    let month = (0..12)
        .rev()
        .find(|month| starts(*month) <= in_year)
        .unwrap_or(0);
    (
        year as u16,
        month as u8 + 1,
        (in_year - starts(month)) as u8 + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: u16, month: u8, day: u8) -> DateTime {
        DateTime {
            year,
            month,
            day,
            ..DateTime::EPOCH
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut today = date(1899, 12, 31);
        let mut week = today.day_of_week();
        assert_eq!(week, 1);
        for _ in 0..146_097 {
            let next = today.plus_seconds(86_400);
            let last = match today.month {
                4 | 6 | 9 | 11 => 30,
                2 if is_leap(u64::from(today.year)) => 29,
                2 => 28,
                _ => 31,
            };
            let expected = if today.day < last {
                date(today.year, today.month, today.day + 1)
            } else if today.month < 12 {
                date(today.year, today.month + 1, 1)
            } else {
                date(today.year + 1, 1, 1)
            };
            assert_eq!(next, expected);
            week = week % 7 + 1;
            assert_eq!(next.day_of_week(), week);
            today = next;
        }
        assert_eq!(today, date(2299, 12, 31));
    }

    #[test]
    fn known_days() {
        assert_eq!(date(2000, 1, 1).day_of_week(), 7);
        assert_eq!(date(2024, 2, 29).day_of_week(), 5);
        assert_eq!(
            date(1970, 1, 1).plus_seconds(1_709_210_096),
            DateTime {
                year: 2024,
                month: 2,
                day: 29,
                hour: 12,
                minute: 34,
                second: 56,
            }
        );
        assert_eq!(date(0, 1, 1).plus_seconds(366 * 86_400), date(1, 1, 1));
    }

    #[test]
    fn nonsense_is_normalized() {
        let nonsense = DateTime {
            year: u16::MAX,
            month: 255,
            day: 255,
            hour: 255,
            minute: 255,
            second: 255,
        };
        assert_eq!(nonsense.plus_seconds(u64::MAX).year, 9999);
        assert_eq!(date(2023, 2, 30).plus_seconds(0), date(2023, 3, 2));
        assert_eq!(date(2023, 0, 0).plus_seconds(0), date(2023, 1, 1));
    }
}
