//! Tables as Markdown has them.

/// A table: its header, and a row of as many cells for each line.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let names: Vec<String> = header.iter().map(ToString::to_string).collect();
    let mut text = line(&names);
    text.push_str(&format!("|{}\n", "---|".repeat(header.len())));
    for row in rows {
        assert_eq!(row.len(), header.len(), "{row:?}");
        text.push_str(&line(&row));
    }
    text
}

/// A number in the manual's notation.
pub(crate) fn hex(value: u64) -> String {
    let digits = format!("{value:X}");
    // As an assembler would have it: a digit first.
    if digits.starts_with(|digit: char| digit.is_ascii_digit()) {
        format!("{digits}H")
    } else {
        format!("0{digits}H")
    }
}

/// A range of numbers, or one.
pub(crate) fn range(first: u64, last: u64) -> String {
    if first == last {
        hex(first)
    } else {
        format!("{}–{}", hex(first), hex(last))
    }
}
