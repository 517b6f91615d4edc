//! The pages of the simulated sign-in. They work without JavaScript.

use std::fmt::Write as _;

/// Text that is safe inside HTML, also inside quotes.
pub fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

/// A page with a title.
pub fn page(title: &str, inner: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>{title}</title><style>\
         body{{font:16px/1.5 system-ui,sans-serif;background:#eef1f5;color:#1b1f24;margin:0;padding:6vh 1rem}}\
         main{{max-width:27rem;margin:0 auto;background:#fff;padding:2rem 2.25rem;border-radius:.5rem;box-shadow:0 2px 12px #0002}}\
         h1{{font-size:1.4rem;margin:.25rem 0 1rem}}small{{color:#59636e}}label{{display:block;padding:.35rem 0}}\
         input[type=text]{{width:100%;box-sizing:border-box;padding:.5rem;font:inherit;border:1px solid #8c959f;border-radius:.25rem}}\
         button{{font:inherit;padding:.5rem 1.25rem;margin:1rem .5rem 0 0;border:1px solid #8c959f;border-radius:.25rem;background:#fff;\
         cursor:pointer}}button.main{{background:#0f5fc2;border-color:#0f5fc2;color:#fff}}li{{margin:.2rem 0}}\
         code{{word-break:break-all}}</style></head><body><main><small>Simulated Microsoft sign-in</small>\
         <h1>{title}</h1>{inner}</main></body></html>",
        title = escape(title)
    )
}

/// A page that only says something.
pub fn message(title: &str, text: &str) -> String {
    page(title, &format!("<p>{}</p>", escape(text)))
}

/// Hidden fields of a form.
pub fn hidden<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    fields
        .into_iter()
        .fold(String::new(), |mut html, (name, value)| {
            let (name, value) = (escape(name), escape(value));
            let _ = write!(
                html,
                "<input type=\"hidden\" name=\"{name}\" value=\"{value}\">"
            );
            html
        })
}

/// Items of a list.
pub fn items<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().fold(String::new(), |mut html, text| {
        let _ = write!(html, "<li>{}</li>", escape(text));
        html
    })
}

/// A page that sends fields to an address by itself, or by a button where there is no JavaScript.
pub fn post_back(to: &str, fields: &[(String, String)]) -> String {
    let fields = hidden(fields.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    page(
        "Going back to the application",
        &format!(
            "<form method=\"post\" action=\"{}\">{fields}<button class=\"main\">Continue</button></form>\
             <script>document.forms[0].submit()</script>",
            escape(to)
        ),
    )
}
