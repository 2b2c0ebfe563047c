//! Gathers rounds, takes medians, prints the table and the JSON lines.

use std::io::Write;

/// The measurements of one call.
pub(crate) struct Table {
    only: Option<Vec<String>>,
    json: Option<std::fs::File>,
    rows: Vec<Row>,
}

struct Row {
    work: &'static str,
    unit: &'static str,
    values: Vec<f64>,
    yardsticks: Vec<f64>,
    ratio: f64,
    target: &'static str,
    /// What to reach for beyond the target.
    stretch: &'static str,
    ok: bool,
}

impl Table {
    /// Reads `--only W1,W2` and `--json FILE`; what cargo adds is ignored.
    pub(crate) fn from_args() -> Self {
        let mut table = Self { only: None, json: None, rows: Vec::new() };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--only" => table.only = args.next().map(|list| list.split(',').map(str::to_owned).collect()),
                "--json" => {
                    let path = args.next().expect("--json needs a file");
                    table.json = Some(std::fs::File::create(path).expect("the JSON file can be made"));
                }
                _ => {}
            }
        }
        table
    }

    pub(crate) fn wants(&self, work: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|name| name == work))
    }

    /// Notes one round: what we took and what the yardstick took.
    pub(crate) fn round(&mut self, work: &'static str, unit: &'static str, value: f64, yardstick: f64) {
        let row = match self.rows.iter().position(|row| row.work == work) {
            Some(at) => &mut self.rows[at],
            None => {
                let (values, yardsticks) = (Vec::new(), Vec::new());
                let (ratio, target, stretch, ok) = (f64::NAN, "", "", true);
                self.rows.push(Row { work, unit, values, yardsticks, ratio, target, stretch, ok });
                self.rows.last_mut().expect("just pushed")
            }
        };
        row.values.push(value);
        row.yardsticks.push(yardstick);
    }

    /// Judges the medians: `judge(value, yardstick)` gives the ratio, the target in words, and whether it is met.
    pub(crate) fn judge(&mut self, work: &str, judge: impl Fn(f64, f64) -> (f64, &'static str, bool)) {
        let Some(row) = self.rows.iter_mut().find(|row| row.work == work) else { return };
        (row.ratio, row.target, row.ok) = judge(median(&row.values), median(&row.yardsticks));
        println!("{}", row.line());
    }

    /// Notes what would be better than the target.
    pub(crate) fn stretch(&mut self, work: &str, stretch: &'static str) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.work == work) {
            row.stretch = stretch;
        }
    }

    /// Prints everything once more, and the JSON lines.
    pub(crate) fn finish(mut self) {
        println!(
            "\n{:8} {:>34} {:>14} {:>7}  target (stretch)",
            "work", "median [min..max]", "yardstick", "ratio"
        );
        for row in &self.rows {
            println!("{}", row.line());
            if let Some(json) = &mut self.json {
                writeln!(json, "{}", row.json()).expect("the JSON file can be written");
            }
        }
    }
}

impl Row {
    fn line(&self) -> String {
        let (min, max) = bounds(&self.values);
        let value = format!("{} {} [{}..{}]", short(median(&self.values)), self.unit, short(min), short(max));
        let ok = if self.ok { "" } else { "  MISSED" };
        let yardstick = short(median(&self.yardsticks));
        let stretch = if self.stretch.is_empty() { String::new() } else { format!(" ({})", self.stretch) };
        let ratio = short(self.ratio);
        format!("{:8} {value:>34} {yardstick:>14} {ratio:>7}  {}{stretch}{ok}", self.work, self.target)
    }

    fn json(&self) -> String {
        let number = |x: f64| if x.is_finite() { x.to_string() } else { "null".to_owned() };
        let (value, yardstick) = (number(median(&self.values)), number(median(&self.yardsticks)));
        format!(
            r#"{{"work":"{}","value":{value},"unit":"{}","yardstick":{yardstick},"ratio":{},"target":"{}","ok":{}}}"#,
            self.work,
            self.unit,
            number(self.ratio),
            self.target,
            self.ok
        )
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn bounds(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), x| (min.min(*x), max.max(*x)))
}

/// A number as people read it.
fn short(x: f64) -> String {
    match x.abs() {
        _ if !x.is_finite() => "-".to_owned(),
        size if size >= 1e6 => format!("{:.2} M", x / 1e6),
        size if size >= 1e4 => format!("{:.0} k", x / 1e3),
        size if size >= 100.0 => format!("{x:.0}"),
        _ => format!("{x:.2}"),
    }
}
