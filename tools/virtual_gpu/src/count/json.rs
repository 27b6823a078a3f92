//! JSON objects, written in order.

#[derive(Default)]
pub struct Object {
    text: String,
}

impl Object {
    pub fn new() -> Object {
        Object::default()
    }

    fn key(&mut self, key: &str) -> &mut String {
        self.text.push(if self.text.is_empty() { '{' } else { ',' });
        self.text += &format!("{}:", quoted(key));
        &mut self.text
    }
    pub fn text(&mut self, key: &str, value: &str) -> &mut Object {
        *self.key(key) += &quoted(value);
        self
    }
    /// A number rounded to a whole one.
    pub fn whole(&mut self, key: &str, value: f64) -> &mut Object {
        *self.key(key) += &format!("{value:.0}");
        self
    }
    pub fn number(&mut self, key: &str, value: f64) -> &mut Object {
        *self.key(key) += &format!("{value:.4}");
        self
    }
    pub fn object(&mut self, key: &str, fill: impl FnOnce(&mut Object)) -> &mut Object {
        let mut inner = Object::new();
        fill(&mut inner);
        *self.key(key) += &inner.end();
        self
    }
    pub fn list(&mut self, key: &str, fill: impl FnOnce(&mut Vec<String>)) -> &mut Object {
        let mut items = vec![];
        fill(&mut items);
        *self.key(key) += &format!("[{}]", items.join(","));
        self
    }
    /// The finished text.
    pub fn end(mut self) -> String {
        if self.text.is_empty() {
            self.text.push('{');
        }
        self.text + "}"
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c < ' ' => quoted += &format!("\\u{:04x}", c as u32),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_nest_and_text_is_escaped() {
        let mut object = Object::new();
        object.text("a \"name\"", "x\\y\n").whole("n", 2.6).number("r", 0.5);
        object.object("inner", |inner| {
            inner.whole("one", 1.0);
        });
        object.object("none", |_| ());
        object.list("list", |list| list.extend(["1".into(), "2".into()]));
        assert_eq!(
            object.end(),
            r#"{"a \"name\"":"x\\y\u000a","n":3,"r":0.5000,"inner":{"one":1},"none":{},"list":[1,2]}"#
        );
    }
}
