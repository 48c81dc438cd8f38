//! Draws pictures of a terminal as one SVG that plays without a script: all pictures are below each other, and an
//! animation moves the strip behind a window.

use std::collections::HashMap;
use std::fmt::Write as _;

use avt::{Cell, Color, Line, Pen};

use super::film::Pictures;

/// The size of a character, in pixels.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
/// The size of the font; its characters are as wide as `WIDTH` in most fixed-width fonts.
const FONT: f64 = 14.0;
/// The space around the text.
const MARGIN: f64 = 16.0;

const FOREGROUND: &str = "#d0d7de";
const BACKGROUND: &str = "#161b22";
/// The sixteen named colours.
const NAMED: [&str; 16] = [
    "#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4", "#6e7681",
    "#ffa198", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#f0f6fc",
];

/// The pictures as a whole SVG document.
pub(super) fn draw(pictures: &Pictures, columns: usize, rows: usize) -> String {
    let (columns, rows) = (float(columns), float(rows));
    let (width, height) = (columns * WIDTH + 2.0 * MARGIN, rows * HEIGHT + 2.0 * MARGIN);
    let step = rows * HEIGHT;
    let mut lines = Lines::default();
    let (mut strip, mut moves) = (String::new(), String::new());
    for (number, picture) in pictures.all.iter().enumerate() {
        let top = float(number) * step;
        let percent = 100.0 * picture.start.as_secs_f64() / pictures.length.as_secs_f64();
        writeln!(moves, "{percent:.3}%{{transform:translateY(-{top}px)}}").expect(INTO_STRING);
        if let Some((column, row)) = picture.cursor {
            let (x, y) = (float(column) * WIDTH, top + float(row) * HEIGHT);
            writeln!(strip, r##"<use href="#c" x="{x:.1}" y="{y}"/>"##).expect(INTO_STRING);
        }
        for (row, line) in picture.lines.iter().enumerate() {
            if let Some(id) = lines.id(line) {
                let y = top + float(row) * HEIGHT;
                writeln!(strip, r##"<use href="#l{id}" y="{y}"/>"##).expect(INTO_STRING);
            }
        }
    }
    let seconds = pictures.length.as_secs_f64();
    let end = float(pictures.all.len().saturating_sub(1)) * step;
    let definitions = lines.definitions;
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.1} {height}" width="{width:.1}" height="{height}" role="img">
<title>kugetsu on a terminal</title>
<style>
text{{font:{FONT}px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace;fill:{FOREGROUND};white-space:pre}}
.strip{{animation:play {seconds:.2}s step-end infinite}}
@keyframes play{{
{moves}}}
@media (prefers-reduced-motion:reduce){{.strip{{animation:none;transform:translateY(-{end}px)}}}}
</style>
<defs>
<rect id="c" width="{WIDTH}" height="{HEIGHT}" fill="{FOREGROUND}" opacity="0.6"/>
{definitions}</defs>
<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>
<svg x="{MARGIN}" y="{MARGIN}" width="{inner:.1}" height="{step}">
<g class="strip">
{strip}</g>
</svg>
</svg>
"#,
        inner = columns * WIDTH,
    )
}

const INTO_STRING: &str = "a String takes everything";

/// Each line once, however often it is shown.
#[derive(Default)]
struct Lines {
    definitions: String,
    /// None: the line is blank.
    known: HashMap<String, Option<usize>>,
    count: usize,
}

impl Lines {
    /// The number of a line, unless it is blank.
    fn id(&mut self, line: &Line) -> Option<usize> {
        let drawn = draw_line(line);
        if let Some(known) = self.known.get(&drawn) {
            return *known;
        }
        let id = (!drawn.is_empty()).then_some(self.count);
        if let Some(id) = id {
            writeln!(self.definitions, r#"<g id="l{id}">{drawn}</g>"#).expect(INTO_STRING);
            self.count += 1;
        }
        self.known.insert(drawn, id);
        id
    }
}

fn draw_line(line: &Line) -> String {
    let mut drawn = String::new();
    let mut column = 0;
    for run in line.chunks(|one, next| one.pen() != next.pen()) {
        let cells: usize = run.iter().map(|cell| usize::from(cell.width())).sum();
        draw_run(&mut drawn, &run, column, cells);
        column += cells;
    }
    drawn
}

/// Draws cells of one style. The length of each text is given, so that columns stay in line with any font.
fn draw_run(drawn: &mut String, run: &[Cell], column: usize, cells: usize) {
    let Some(first) = run.first() else { return };
    let style = Style::of(first.pen());
    let whole: String = run
        .iter()
        .filter(|cell| cell.width() > 0)
        .map(Cell::char)
        .collect();
    if let Some(colour) = &style.background {
        let (x, width) = (float(column) * WIDTH, float(cells) * WIDTH);
        write!(
            drawn,
            r#"<rect x="{x:.1}" width="{width:.1}" height="{HEIGHT}" fill="{colour}"/>"#
        )
        .expect(INTO_STRING);
    }
    let text = whole.trim_end();
    let blank = text.len() - text.trim_start().len();
    let text = text.trim_start();
    if text.is_empty() {
        return;
    }
    // Blanks are single bytes and single columns.
    let columns = cells - blank - (whole.len() - blank - text.len());
    let (x, y) = (float(column + blank) * WIDTH, HEIGHT * 0.75);
    let length = float(columns) * WIDTH;
    let attributes = &style.attributes;
    let text = escaped(text);
    write!(
        drawn,
        r#"<text x="{x:.1}" y="{y}" textLength="{length:.1}"{attributes}>{text}</text>"#
    )
    .expect(INTO_STRING);
}

/// How a run of cells is drawn.
struct Style {
    background: Option<String>,
    attributes: String,
}

impl Style {
    fn of(pen: &Pen) -> Self {
        let mut foreground = pen.foreground().map(colour);
        let mut background = pen.background().map(colour);
        if pen.is_inverse() {
            let back = background.unwrap_or_else(|| BACKGROUND.to_owned());
            background = Some(foreground.unwrap_or_else(|| FOREGROUND.to_owned()));
            foreground = Some(back);
        }
        let mut attributes = String::new();
        if let Some(colour) = foreground {
            write!(attributes, r#" style="fill:{colour}""#).expect(INTO_STRING);
        }
        for (is, attribute) in [
            (pen.is_bold(), r#" font-weight="bold""#),
            (pen.is_faint(), r#" opacity="0.6""#),
            (pen.is_italic(), r#" font-style="italic""#),
            (pen.is_underline(), r#" text-decoration="underline""#),
        ] {
            if is {
                attributes.push_str(attribute);
            }
        }
        Self {
            background,
            attributes,
        }
    }
}

fn colour(colour: Color) -> String {
    let (r, g, b) = match colour {
        Color::RGB(rgb) => (rgb.r, rgb.g, rgb.b),
        Color::Indexed(named) if named < 16 => return NAMED[usize::from(named)].to_owned(),
        // The cube of 6 × 6 × 6 colours, then 24 shades of grey, as xterm defines them.
        Color::Indexed(cube) if cube < 232 => {
            let level = |part: u8| if part == 0 { 0 } else { 55 + 40 * part };
            let cube = cube - 16;
            (level(cube / 36), level(cube / 6 % 6), level(cube % 6))
        }
        Color::Indexed(grey) => {
            let level = 8 + 10 * (grey - 232);
            (level, level, level)
        }
    };
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a terminal is small, and so is its film"
)]
fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::film::Film;
    use super::*;

    #[test]
    fn text_keeps_its_place_its_colours_and_its_meaning() {
        let mut film = Film::new(30, 2);
        film.show("a <b> & c\r\n\x1b[1;38;5;196mred\x1b[0m  \x1b[7minverse\x1b[0m \x1b[32m漢 x");
        film.wait(Duration::from_secs(1));
        film.show("\x1b[?25l\r\n");
        film.wait(Duration::from_secs(1));
        let text = draw(&film.end(), 30, 2);
        for expected in [
            r#"<text x="0.0" y="13.5" textLength="75.6">a &lt;b&gt; &amp; c</text>"#,
            r#"<text x="0.0" y="13.5" textLength="25.2" style="fill:#ff0000" font-weight="bold">red</text>"#,
            &format!(r#"<rect x="42.0" width="58.8" height="18" fill="{FOREGROUND}"/>"#),
            &format!(r#"<text x="42.0" y="13.5" textLength="58.8" style="fill:{BACKGROUND}">inverse</text>"#),
            r#"<text x="109.2" y="13.5" textLength="33.6" style="fill:#3fb950">漢 x</text>"#,
            "0.000%{transform:translateY(-0px)}\n50.000%{transform:translateY(-36px)}\n",
        ] {
            assert!(text.contains(expected), "{expected}\nin {text}");
        }
        // The second line is drawn once and shown twice; the first one has scrolled away.
        assert_eq!(text.matches(r##"href="#l1""##).count(), 2, "{text}");
        assert_eq!(text.matches(r##"href="#c""##).count(), 1, "{text}");
    }
}
