//! Tables for people: columns without lines, so that `cut` and `grep` work on them. On a terminal, a table fits into its
//! width: prose is wrapped between words, and if that is not enough, the least important columns are left out. A pipe
//! gets everything.

use comfy_table::{
    Attribute, Cell as TableCell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets,
};
use console::measure_text_width;

use super::tone::Tone;
use crate::terminal::one_line;

/// The blanks between two columns.
const GAP: usize = 2;
/// A word longer than this, such as a path, may be broken. Otherwise it would push out every other column.
const LONGEST_WORD: usize = 24;

/// How a column takes part in a table that is too wide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    wraps: bool,
    /// Columns with a higher number are left out first; those with 0 stay.
    spare: u8,
}

impl Column {
    /// A column whose cells stay whole.
    pub(super) const fn new(title: &'static str) -> Self {
        Self {
            title,
            wraps: false,
            spare: 0,
        }
    }

    /// A column of prose.
    pub(super) const fn prose(title: &'static str) -> Self {
        Self {
            wraps: true,
            ..Self::new(title)
        }
    }

    /// Leaves the column out if the table is too wide, before those with a lower number.
    pub(super) const fn spare(self, spare: u8) -> Self {
        Self { spare, ..self }
    }
}

/// The content of a cell.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// The table's text. `width` is that of the terminal, if there is one, and `escape` makes the text of a cell what the
/// output may get. Without any title, the table has no head. A cell is one line, so that no text can look like a row.
pub(super) fn render<C: Into<Cell>>(
    columns: &[Column],
    rows: Vec<Vec<C>>,
    width: Option<usize>,
    coloured: bool,
    escape: impl Fn(&str) -> String,
) -> String {
    let cell = |cell: C| {
        let Cell { text, tone } = cell.into();
        Cell::new(escape(&one_line(&text)), tone)
    };
    let rows: Vec<Vec<Cell>> = rows
        .into_iter()
        .map(|row| row.into_iter().map(cell).collect())
        .collect();
    let widths = match width {
        Some(width) => layout(columns, &rows, width),
        None => vec![Shown::Whole; columns.len()],
    };
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    if columns.iter().any(|column| !column.title.is_empty()) {
        table.set_header(
            columns
                .iter()
                .map(|column| painted(column.title, Tone::Strong, coloured)),
        );
    }
    if coloured {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| painted(&cell.text, cell.tone, coloured)));
    }
    for (column, width) in table.column_iter_mut().zip(widths) {
        column.set_padding((0, GAP as u16));
        match width {
            Shown::Whole => {}
            Shown::Wrapped(width) => {
                let width = u16::try_from(width + GAP).unwrap_or(u16::MAX);
                column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width)));
            }
            Shown::LeftOut => {
                column.set_constraint(ColumnConstraint::Hidden);
            }
        }
    }
    let text = table.to_string();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

fn painted(text: &str, tone: Tone, coloured: bool) -> TableCell {
    let cell = TableCell::new(text);
    if !coloured {
        return cell;
    }
    match tone {
        Tone::Plain => cell,
        Tone::Strong => cell.add_attribute(Attribute::Bold),
        Tone::Good => cell.fg(Color::DarkGreen),
        Tone::Live => cell.fg(Color::DarkCyan),
        Tone::Warn => cell.fg(Color::DarkYellow),
        Tone::Bad => cell.fg(Color::DarkRed).add_attribute(Attribute::Bold),
    }
}

/// What becomes of a column.
#[derive(Clone, Copy, Debug)]
enum Shown {
    LeftOut,
    /// It has the width of its cells.
    Whole,
    /// Its cells are wrapped in this width.
    Wrapped(usize),
}

fn layout(columns: &[Column], rows: &[Vec<Cell>], width: usize) -> Vec<Shown> {
    let cells = |place: usize| rows.iter().filter_map(move |row| row.get(place));
    let natural: Vec<usize> = (0..columns.len())
        .map(|place| {
            let lines = cells(place).flat_map(|cell| cell.text.lines());
            let longest = lines.map(measure_text_width).max().unwrap_or(0);
            longest.max(measure_text_width(columns[place].title))
        })
        .collect();
    let smallest: Vec<usize> = (0..columns.len())
        .map(|place| {
            if !columns[place].wraps {
                return natural[place];
            }
            let words = cells(place).flat_map(|cell| cell.text.split_whitespace());
            let longest = words.map(measure_text_width).max().unwrap_or(0);
            longest
                .min(LONGEST_WORD)
                .max(measure_text_width(columns[place].title))
                // Prose in a column of one word each is hard to read.
                .max(LONGEST_WORD.min(natural[place]))
        })
        .collect();
    let mut shown: Vec<bool> = vec![true; columns.len()];
    let sum = |widths: &[usize], shown: &[bool]| {
        let visible = widths.iter().zip(shown).filter(|(_, shown)| **shown);
        let (count, sum) = visible.fold((0, 0), |(count, sum), (width, _)| (count + 1, sum + width));
        sum + GAP * usize::saturating_sub(count, 1)
    };
    while sum(&smallest, &shown) > width {
        let candidates = (0..columns.len()).filter(|place| shown[*place] && columns[*place].spare > 0);
        match candidates.max_by_key(|place| columns[*place].spare) {
            Some(place) => shown[place] = false,
            None => break,
        }
    }
    // What is left goes to the last column of prose, which mostly is the longest, then to the one before.
    let mut left = width.saturating_sub(sum(&smallest, &shown));
    let mut widths = vec![Shown::LeftOut; columns.len()];
    for place in (0..columns.len()).rev().filter(|place| shown[*place]) {
        let more = natural[place].saturating_sub(smallest[place]).min(left);
        left -= more;
        widths[place] = if columns[place].wraps {
            Shown::Wrapped(smallest[place] + more)
        } else {
            Shown::Whole
        };
    }
    widths
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::new("REF"),
        Column::new("STATE").spare(1),
        Column::new("SESSION").spare(2),
        Column::prose("REASON"),
    ];

    proptest! {
        /// At any width: the first column is whole, no short word is broken, and the table fits if it can.
        #[test]
        fn a_table_fits_and_keeps_words_whole(
            rows in proptest::collection::vec(("[a-z/#]{1,30}", "[a-z]{1,9}", "[a-z]{30}", "([a-z]{1,12} ){0,12}"), 1..6),
            width in 1_usize..200,
        ) {
            let cells = rows.iter().map(|(a, b, c, d)| vec![a.as_str(), b, c, d]).collect();
            let text = render(&COLUMNS, cells, Some(width), false, str::to_owned);
            for (reference, _, _, reason) in &rows {
                prop_assert!(text.lines().any(|line| line.split(' ').next() == Some(reference)), "{}", text);
                for word in reason.split_whitespace() {
                    prop_assert!(text.split_whitespace().any(|piece| piece == word), "{}: {}", word, text);
                }
            }
            let longest = text.lines().map(measure_text_width).max().unwrap_or(0);
            let whole = rows.iter().map(|row| row.0.len()).max().unwrap_or(0).max(3);
            prop_assert!(longest <= width.max(whole + GAP + LONGEST_WORD), "{} of {}\n{}", longest, width, text);
        }
    }

    #[test]
    fn a_pipe_gets_every_column_in_full_and_without_colour() {
        let long = "word ".repeat(60);
        let row = vec![
            Cell::from("14"),
            Cell::new("failed", Tone::Bad),
            "ses_1".into(),
            long.as_str().into(),
        ];
        let text = render(&COLUMNS, vec![row.clone()], None, false, str::to_owned);
        assert!(text.contains("ses_1") && text.contains(long.trim()), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let text = render(&COLUMNS, vec![row], Some(40), true, str::to_owned);
        assert!(
            !text.contains("ses_1") && text.contains("\u{1b}[38;5;1m"),
            "{text:?}"
        );
    }

    #[test]
    fn text_from_outside_can_neither_colour_a_table_nor_add_a_row() {
        let rows = vec![vec![
            "\u{1b}[31mred",
            "a\u{202e}b\nc\td",
            "\u{9b}2J",
            "x\u{7}\n14  completed",
        ]];
        let escape = |text: &str| crate::terminal::escape(text).into_owned();
        let text = render(&COLUMNS, rows, Some(120), false, escape);
        let row = text.lines().nth(1).expect("a row");
        for shown in ["^[[31mred", "a<U+202E>b c d", "<U+009B>2J", "x^G 14 completed"] {
            assert!(row.contains(shown), "{shown}: {text:?}");
        }
    }
}
