//! The picture for the README: bars of CPU per transaction, readable on light and on dark pages.

use std::fmt::{Result, Write as _};

use crate::book::{Book, Figure};
use crate::target::Target;

/// What is drawn, where it was measured.
const ROWS: [&str; 9] = [
    "simple c1",
    "simple c8",
    "simple c64",
    "extended c8",
    "prepared c8",
    "prepared c64",
    "tls simple c8",
    "connect trust",
    "select 10 MB",
];
/// Of the whole picture; bars begin behind the labels, and leave room for their figures.
const WIDTH: f64 = 760.0;
const LABELS: f64 = 130.0;
const FIGURES: f64 = 80.0;
const TOP: f64 = 56.0;
const BAR: f64 = 13.0;
const GAP: f64 = 12.0;
const COLOURS: [&str; 6] = ["#8a8f98", "#d08a3c", "#5a9bd4", "#a07fc0", "#6aa56a", "#c0607a"];
const OURS: &str = "#2f9e78";

/// The picture as SVG, or nothing where nothing of it was measured.
pub(crate) fn draw(book: &Book, targets: &[Target]) -> Option<String> {
    let mut names: Vec<&str> = targets
        .iter()
        .filter(|target| target.is_peer() || target.name == "pgmoor")
        .map(|target| target.name.as_str())
        .collect();
    let figure = |row: &str| {
        if book.median(row, "pgmoor", Figure::ByteCpu).is_some() { Figure::ByteCpu } else { Figure::ProxyCpu }
    };
    let bars = |row: &'static str| {
        let bars = names.iter().filter_map(|name| Some((*name, book.median(row, name, figure(row))?)));
        Row { name: row, unit: if figure(row) == Figure::ByteCpu { "ns/B" } else { "µs" }, bars: bars.collect() }
    };
    let rows: Vec<Row<'_>> = ROWS.into_iter().map(bars).filter(|row| !row.bars.is_empty()).collect();
    names.retain(|name| rows.iter().any(|row| row.bars.iter().any(|(other, _)| other == name)));
    let mut text = String::new();
    (!rows.is_empty() && svg(&mut text, &names, &rows).is_ok()).then_some(text)
}

struct Row<'a> {
    name: &'a str,
    unit: &'a str,
    bars: Vec<(&'a str, f64)>,
}

fn svg(text: &mut String, names: &[&str], rows: &[Row<'_>]) -> Result {
    let height = TOP + rows.iter().map(|row| row.bars.len() as f64 * BAR + GAP).sum::<f64>();
    writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\" role=\"img\">\n\
         <title>CPU of the proxy for one transaction, less is better</title>\n\
         <style>text {{ fill: #768390 }}\n\
         @media (prefers-color-scheme: light) {{ text {{ fill: #24292f }} }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #d0d7de }} }}</style>\n\
         <text x=\"4\" y=\"16\" font-size=\"14\" font-weight=\"bold\">CPU of the proxy: less is better</text>"
    )?;
    let mut x = 4.0;
    for name in names {
        writeln!(text, "<rect x=\"{x}\" y=\"27\" width=\"11\" height=\"11\" fill=\"{}\"/>", colour(names, name))?;
        writeln!(text, "<text x=\"{}\" y=\"37\">{name}</text>", x + 15.0)?;
        x += 32.0 + name.len() as f64 * 6.5;
    }
    let mut y = TOP;
    for row in rows {
        bars(text, names, row, y)?;
        y += row.bars.len() as f64 * BAR + GAP;
    }
    writeln!(text, "</svg>")
}

/// One group: every row has a scale of its own, for a connection costs many times what a query does.
fn bars(text: &mut String, names: &[&str], row: &Row<'_>, top: f64) -> Result {
    let most = row.bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let middle = top + row.bars.len() as f64 * BAR / 2.0 + 4.0;
    writeln!(text, "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>", LABELS - 8.0, row.name)?;
    for (place, (name, value)) in row.bars.iter().enumerate() {
        let y = top + place as f64 * BAR;
        let width = (WIDTH - LABELS - FIGURES) * value / most;
        let digits = if *value < 10.0 { 2 } else { usize::from(*value < 100.0) };
        let fill = colour(names, name);
        writeln!(
            text,
            "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" rx=\"2\" fill=\"{fill}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{value:.digits$} {}</text>",
            BAR - 2.0,
            LABELS + width + 5.0,
            y + 9.5,
            row.unit,
        )?;
    }
    Ok(())
}

fn colour(names: &[&str], name: &str) -> &'static str {
    if name == "pgmoor" {
        return OURS;
    }
    let place = names.iter().position(|other| *other == name).unwrap_or_default();
    COLOURS[place % COLOURS.len()]
}
