//! Every AADSTS code an operator will meet: the list of the reference (`entra-oauth.md` §9), as data. Not derived from our own table,
//! so that the two can be compared.

/// Who can do something, where nobody sits at a keyboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Nobody: it passes.
    Transient,
    /// The customer signs in again.
    Reauthorize,
    /// The customer's administrator.
    Administrator,
    /// We.
    Ours,
    /// We, for every tenant at once.
    OurCredential,
}

/// A row of the reference.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The codes.
    pub codes: &'static [u32],
    /// The class as the reference writes it, for whoever sits at the keyboard.
    pub class: &'static str,
    /// On Microsoft's page: sent back to the application.
    pub authorize: bool,
    /// On Microsoft's page, and never sent back.
    pub page_only: bool,
    /// When a code is redeemed.
    pub code: bool,
    /// At a refresh.
    pub refresh: Option<Blame>,
    /// At client credentials.
    pub application: Option<Blame>,
}

const fn case(codes: &'static [u32], class: &'static str) -> Case {
    Case {
        codes,
        class,
        authorize: false,
        page_only: false,
        code: false,
        refresh: None,
        application: None,
    }
}

impl Case {
    const fn authorize(mut self) -> Self {
        self.authorize = true;
        self
    }

    const fn page_only(mut self) -> Self {
        self.page_only = true;
        self
    }

    const fn code(mut self) -> Self {
        self.code = true;
        self
    }

    const fn refresh(mut self, blame: Blame) -> Self {
        self.refresh = Some(blame);
        self
    }

    const fn application(mut self, blame: Blame) -> Self {
        self.application = Some(blame);
        self
    }
}

use Blame::{Administrator, OurCredential, Ours, Reauthorize, Transient};

/// All of them.
pub const CASES: &[Case] = &[
    case(&[50034], "U / R").authorize().refresh(Reauthorize),
    case(&[50020], "U / A").authorize(),
    case(&[16000, 51004, 50014, 90072], "U / A").authorize(),
    case(&[50053], "U (T)").authorize().refresh(Transient),
    case(&[50055], "U / R").authorize().refresh(Reauthorize),
    case(&[50144], "U / R").authorize().refresh(Reauthorize),
    case(&[50056], "U").authorize(),
    case(&[50057], "A then R")
        .authorize()
        .refresh(Administrator),
    case(&[50126], "U").authorize(),
    case(&[50064], "U").authorize(),
    case(&[50058], "U").authorize(),
    case(&[50059, 50128, 90019], "M / U")
        .authorize()
        .refresh(Ours),
    case(&[50132, 50133, 50173], "R").refresh(Reauthorize),
    case(&[50135], "U then R").authorize(),
    case(&[50085], "R").refresh(Reauthorize),
    case(&[50089], "U").authorize(),
    case(&[50097, 50187, 50155], "A")
        .authorize()
        .refresh(Administrator),
    case(&[50105], "A").authorize().refresh(Administrator),
    case(&[50072, 50079], "U/R")
        .authorize()
        .refresh(Reauthorize),
    case(&[50074], "U/R").authorize(),
    case(&[50076], "R (+claims)").code().refresh(Reauthorize),
    case(&[50078], "R").refresh(Reauthorize),
    case(&[50158], "R / A").authorize().refresh(Reauthorize),
    case(&[50131], "A").authorize().refresh(Administrator),
    case(&[53000], "A").authorize().refresh(Administrator),
    case(&[53001], "A").authorize().refresh(Administrator),
    case(&[53002], "A").authorize().refresh(Administrator),
    case(&[53003], "A").authorize().refresh(Administrator),
    case(&[53004], "U / A").authorize(),
    case(&[530_003], "A").authorize().refresh(Administrator),
    case(&[530_032], "A").authorize().refresh(Administrator),
    case(&[530_035], "A").authorize(),
    case(&[53011], "A").authorize(),
    case(&[70043], "R").refresh(Reauthorize),
    case(&[500_021, 500_022], "A").authorize(),
    case(&[50002], "A").authorize(),
    case(&[500_212, 500_213], "A").authorize(),
    case(&[65001], "R / A")
        .authorize()
        .code()
        .refresh(Reauthorize)
        .application(Administrator),
    case(&[65004], "U").authorize(),
    case(&[90008], "M").authorize(),
    case(&[90094], "A").authorize(),
    case(&[90095], "A").authorize(),
    case(&[90099], "A").authorize(),
    case(&[65005, 650_056], "M / A").authorize(),
    case(&[650_057], "M").authorize(),
    case(&[650_052], "A").authorize(),
    case(&[500_011], "M / A")
        .authorize()
        .code()
        .application(Ours),
    case(&[50001], "M").authorize(),
    case(&[700_016], "A / M")
        .authorize()
        .refresh(Administrator)
        .application(Administrator),
    case(&[700_011], "A / M").application(Administrator),
    case(&[70001, 7_000_112], "A / M")
        .authorize()
        .refresh(Administrator)
        .application(Administrator),
    case(&[1_000_031], "A").authorize(),
    case(&[50194], "M").authorize(),
    case(&[90130, 90124, 9_001_023], "M")
        .authorize()
        .application(Ours),
    case(&[90002], "U / M")
        .authorize()
        .refresh(Administrator)
        .application(Administrator),
    case(&[90038, 900_382, 1_000_104], "A").authorize(),
    case(&[54005], "M / U").code(),
    case(&[70000], "R (once T)").code().refresh(Reauthorize),
    case(&[70008], "R (code: restart)")
        .code()
        .refresh(Reauthorize),
    case(&[700_082], "R").refresh(Reauthorize),
    case(&[700_084], "M").refresh(Ours),
    case(&[700_005], "M").code(),
    case(&[501_481, 50147, 501_491], "M / attack").code(),
    case(&[70011, 28002, 28003, 700_022, 700_023], "M")
        .authorize()
        .code(),
    case(&[70003, 70005, 70007, 700_054], "M").authorize(),
    case(&[50013, 500_133, 50027], "M").code().application(Ours),
    case(&[50196], "M").refresh(Ours).application(Ours),
    case(&[9_002_313], "M, then R").code().refresh(Reauthorize),
    case(&[90013, 90014, 900_144, 90023, 90100], "M")
        .authorize()
        .code()
        .refresh(Ours)
        .application(Ours),
    case(&[90056, 900_561], "M").code(),
    case(&[50011, 70004], "M").page_only(),
    case(&[900_971], "M").page_only(),
    case(&[7_000_215, 70002], "M, page on-call")
        .code()
        .refresh(OurCredential)
        .application(OurCredential),
    case(&[7_000_222], "M, page on-call")
        .code()
        .refresh(OurCredential)
        .application(OurCredential),
    case(&[7_000_218], "M")
        .code()
        .refresh(OurCredential)
        .application(OurCredential),
    case(&[700_025], "M (registration type)")
        .code()
        .refresh(OurCredential)
        .application(OurCredential),
    case(&[700_027, 700_030, 50012], "M")
        .code()
        .refresh(OurCredential)
        .application(OurCredential),
    case(&[50003], "M")
        .code()
        .refresh(OurCredential)
        .application(OurCredential),
    case(
        &[90033, 90006, 90024, 90012, 90090, 50033, 50087, 40010],
        "T",
    )
    .authorize()
    .code()
    .refresh(Transient)
    .application(Transient),
    case(&[90055], "T")
        .authorize()
        .code()
        .refresh(Transient)
        .application(Transient),
    case(&[50000, 90036], "T")
        .authorize()
        .code()
        .refresh(Transient)
        .application(Transient),
    case(&[80001, 80002, 80005, 80007, 80014], "T")
        .authorize()
        .code()
        .refresh(Transient)
        .application(Transient),
];
