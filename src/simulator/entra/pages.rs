//! The pages of the simulated sign-in. They work without JavaScript, and every one of them says that it is no Microsoft.

use std::fmt::Write as _;

/// What Microsoft's page says over an error.
pub const TROUBLE: &str = "Sorry, but we're having trouble signing you in.";

const STYLE: &str = "\
:root{color-scheme:light dark;--page:#eef1f5;--card:#fff;--text:#1b1f24;--soft:#57606a;--line:#6e7781;--act:#0b5cad;--on-act:#fff;\
--mark:#5b2a86;--badge:#f0e6f7;--on-badge:#4a1f70}\
@media(prefers-color-scheme:dark){:root{--page:#14181d;--card:#1f242b;--text:#e6e9ed;--soft:#aab3bd;--line:#8b949e;--act:#9cc4f5;\
--on-act:#10151b;--badge:#3c2a4d;--on-badge:#eadcf7}}\
*{box-sizing:border-box}\
body{font:1rem/1.5 system-ui,sans-serif;background:var(--page);color:var(--text);margin:0}\
header{background:var(--mark);color:#fff;padding:.6rem 1rem;text-align:center}header p{margin:0}\
main{max-width:30rem;margin:5vh auto 2rem;background:var(--card);padding:1.5rem 1.75rem 2rem;border-radius:.5rem}\
@media(max-width:32rem){main{margin:0;border-radius:0}}\
h1{font-size:1.4rem;line-height:1.3;margin:0 0 1rem}h2{font-size:1rem;margin:1.25rem 0 .25rem}\
fieldset{border:1px solid var(--line);border-radius:.35rem;margin:0 0 1rem;padding:.25rem 1rem .5rem}legend{font-weight:600;padding:0 .35rem}\
.choice{display:flex;gap:.6rem;align-items:flex-start;padding:.5rem 0;min-height:2.75rem}.choice input{margin:.3rem 0 0;flex:none}\
.choice span{overflow-wrap:anywhere;min-width:0}.badge{display:inline-block;background:var(--badge);color:var(--on-badge);\
border-radius:.25rem;padding:0 .4rem;font-size:.85rem}\
.field label{display:block;font-weight:600}input[type=text]{width:100%;min-height:2.75rem;padding:.5rem;font:inherit;color:inherit;\
background:var(--card);border:1px solid var(--line);border-radius:.25rem}.soft{color:var(--soft);font-size:.9rem;margin:.25rem 0 0}\
.buttons{display:flex;flex-wrap:wrap;gap:.75rem;margin-top:1.5rem}\
button{font:inherit;min-height:2.75rem;padding:.5rem 1.25rem;border:1px solid var(--line);border-radius:.25rem;background:var(--card);\
color:var(--text);cursor:pointer}button.main{background:var(--act);border-color:var(--act);color:var(--on-act)}\
:focus-visible{outline:3px solid var(--act);outline-offset:2px}code{overflow-wrap:anywhere}";

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
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} - Simulated Microsoft</title><style>{STYLE}</style></head><body>\
         <header><p><strong>Simulated Microsoft sign-in.</strong> For trying and testing: no real account, no password.</p></header>\
         <main><h1>{title}</h1>{inner}</main></body></html>",
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

/// A group of choices of which one can be taken.
pub fn choices(legend: &str, inner: &str) -> String {
    format!(
        "<fieldset><legend>{}</legend>{inner}</fieldset>",
        escape(legend)
    )
}

/// One of the accounts that can be taken, with what is special about it.
pub fn account(upn: &str, name: &str, badges: &[&str], chosen: bool) -> String {
    let badges = badges.iter().fold(String::new(), |mut html, badge| {
        let _ = write!(html, " <span class=\"badge\">{}</span>", escape(badge));
        html
    });
    format!(
        "<label class=\"choice\"><input type=\"radio\" name=\"account\" value=\"{upn}\"{}><span>{name}{badges}<br>{upn}</span></label>",
        if chosen { " checked" } else { "" },
        upn = escape(upn),
        name = escape(name),
    )
}

/// The list of what an application asks for.
pub fn permissions<'a>(scopes: impl IntoIterator<Item = &'a str>) -> String {
    let items = scopes.into_iter().fold(String::new(), |mut html, scope| {
        let about = match scope {
            "openid" => "Sign you in",
            "profile" => "View your basic profile",
            "email" => "View your e-mail address",
            "offline_access" => "Keep access to what you have given it access to",
            "Presence.Read.All" => "Read presence information of all users in your organisation",
            "User.ReadBasic.All" => "Read all users' basic profiles",
            "User.Read" => "Sign you in and read your profile",
            _ => "Use this permission",
        };
        let _ = write!(html, "<li>{about} <code>{}</code></li>", escape(scope));
        html
    });
    format!("<h2>The application asks for</h2><ul>{items}</ul>")
}

/// A page that sends fields to an address by itself, or by a button where there is no JavaScript.
pub fn post_back(to: &str, fields: &[(String, String)]) -> String {
    let fields = hidden(fields.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    page(
        "Going back to the application",
        &format!(
            "<form method=\"post\" action=\"{}\">{fields}<p>You are being sent back.</p>\
             <div class=\"buttons\"><button class=\"main\">Continue</button></div></form>\
             <script>document.forms[0].submit()</script>",
            escape(to)
        ),
    )
}
