//! Names for simulated people. Seeded, and distinct within a tenant.

const GIVEN: [&str; 64] = [
    "Ada", "Adele", "Aiko", "Alan", "Alice", "Amir", "Ana", "Anton", "Arjun", "Astrid", "Ben",
    "Bianca", "Carla", "Chen", "Chloe", "Clara", "Daniel", "Darya", "Diego", "Elena", "Elif",
    "Emil", "Emma", "Erik", "Fatima", "Felix", "Finn", "Freya", "Gabriel", "Grace", "Hana", "Hugo",
    "Ida", "Ines", "Ivan", "Jakob", "Jana", "Jonas", "Julia", "Karim", "Kofi", "Lara", "Leo",
    "Lina", "Luca", "Maja", "Marco", "Maria", "Mei", "Mila", "Nadia", "Nils", "Noah", "Olga",
    "Omar", "Oscar", "Paula", "Priya", "Rosa", "Samuel", "Sofia", "Tomas", "Vera", "Yuki",
];

const FAMILY: [&str; 80] = [
    "Abbott",
    "Adams",
    "Ahmed",
    "Andersen",
    "Arnold",
    "Baker",
    "Bauer",
    "Becker",
    "Berg",
    "Bianchi",
    "Brown",
    "Carter",
    "Castro",
    "Clark",
    "Costa",
    "Cruz",
    "Dahl",
    "Davis",
    "Dietrich",
    "Dubois",
    "Egger",
    "Evans",
    "Fischer",
    "Foster",
    "Fuchs",
    "Garcia",
    "Gomez",
    "Graham",
    "Gupta",
    "Haas",
    "Hansen",
    "Harris",
    "Hoffmann",
    "Huber",
    "Ito",
    "Jensen",
    "Johnson",
    "Kaya",
    "Keller",
    "Khan",
    "Kim",
    "Klein",
    "Kovacs",
    "Kruger",
    "Lang",
    "Larsen",
    "Lee",
    "Lopez",
    "Maier",
    "Martin",
    "Meyer",
    "Moreau",
    "Muller",
    "Murphy",
    "Nagy",
    "Neumann",
    "Nguyen",
    "Novak",
    "O'Brien",
    "Okafor",
    "Olsen",
    "Patel",
    "Peters",
    "Petrov",
    "Popescu",
    "Quinn",
    "Reyes",
    "Rossi",
    "Sato",
    "Schmidt",
    "Schneider",
    "Silva",
    "Singh",
    "Smith",
    "Suzuki",
    "Taylor",
    "Vance",
    "Wagner",
    "Weber",
    "Zimmermann",
];

/// Given and family name of the `n`th person of a tenant. After all 5,120 pairs, names repeat with a number.
pub fn name(seed: u64, n: usize) -> (String, String) {
    let pairs = GIVEN.len() * FAMILY.len();
    // 2,003 and 5,120 have no common factor, so the walk meets every pair once before it repeats.
    let offset = usize::try_from(seed % 5_120).unwrap_or(0);
    let pair = (n % pairs * 2_003 + offset) % pairs;
    let (given, family) = (GIVEN[pair / FAMILY.len()], FAMILY[pair % FAMILY.len()]);
    match n / pairs {
        0 => (given.to_owned(), family.to_owned()),
        round => (given.to_owned(), format!("{family}{}", round + 1)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_distinct() {
        let names: HashSet<_> = (0..12_000).map(|n| name(77, n)).collect();
        assert_eq!(names.len(), 12_000);
    }
}
