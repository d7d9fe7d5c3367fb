//! Text in columns, and the few colours that a terminal gets.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, stdout};

/// Rows under a head, in columns as wide as their widest cell. Numbers are aligned to the right.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    colours: bool,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()], colours: wants_colours() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub(super) fn text(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let is_number = |cell: &String| cell == "-" || (!cell.is_empty() && cell.bytes().all(|c| c.is_ascii_digit()));
        let numeric: Vec<bool> =
            (0..columns).map(|column| self.rows[1..].iter().all(|row| is_number(&row[column]))).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, (width, numeric)) in row.iter().zip(widths.iter().zip(&numeric)) {
                let padding = " ".repeat(width - cell.chars().count());
                let shown = if self.colours { coloured(cell) } else { cell.clone() };
                let cell = if *numeric { padding + &shown } else { shown + &padding };
                // Writing to a String cannot fail.
                let _ = write!(line, "{cell}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A terminal, and nobody who minds (<https://no-color.org>).
pub(super) fn wants_colours() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// States that call for somebody are red, those on purpose yellow.
fn coloured(cell: &str) -> String {
    let colour = match cell {
        "up" => "32",
        "down" | "unresolved" => "31",
        "drain" | "disabled" | "unknown" => "33",
        _ => return cell.to_owned(),
    };
    format!("\x1b[{colour}m{cell}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_to_the_right() {
        let mut table = Table { colours: false, ..Table::new(&["NAME", "FLOWS", "REASON"]) };
        table.row(["a".into(), "7".into(), String::new()]);
        table.row(["longer".into(), "12345678".into(), "é".into()]);
        assert_eq!(table.text(), "NAME       FLOWS  REASON\na              7\nlonger  12345678  é\n");
    }
}
