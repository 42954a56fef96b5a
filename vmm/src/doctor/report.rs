//! The answers, for a person and for a program.

use std::fmt;

use super::Host;

/// What was found.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct Report {
    /// The machine.
    pub host: Host,
    /// Why nothing could be asked.
    pub problem: Option<String>,
    /// The questions and their answers, in order.
    pub probes: Vec<Probe>,
}

/// One question and its answer.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct Probe {
    /// A short name.
    pub name: &'static str,
    /// What a pass proves.
    pub proves: &'static str,
    /// The answer.
    pub outcome: Outcome,
}

/// An answer.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "result")]
pub enum Outcome {
    /// It works.
    Pass {
        /// What it costs, in microseconds.
        microseconds: Option<f64>,
        /// What the cost is of, and what else was seen.
        detail: String,
    },
    /// It does not.
    Fail {
        /// What happened instead.
        reason: String,
    },
}

impl Report {
    /// Whether mmvisor can work here.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let passed = |probe: &Probe| matches!(probe.outcome, Outcome::Pass { .. });
        self.problem.is_none() && !self.probes.is_empty() && self.probes.iter().all(passed)
    }

    /// The report as one JSON object, with `usable` besides the fields.
    ///
    /// # Errors
    /// None that can happen: every field has a JSON form.
    pub fn to_json(&self) -> serde_json::Result<String> {
        let mut value = serde_json::to_value(self)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("usable".to_owned(), self.is_usable().into());
        }
        serde_json::to_string_pretty(&value)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = || "unknown".to_owned();
        let kvm = self.host.kvm.map_or_else(|| "unusable".to_owned(), |kind| kind.to_string());
        writeln!(f, "KVM      {kvm}")?;
        writeln!(f, "module   {}", self.host.module.unwrap_or("unknown"))?;
        writeln!(f, "kernel   {}", self.host.kernel.clone().unwrap_or_else(unknown))?;
        let place = match self.host.virtualized {
            Some(true) => " (in a virtual machine)",
            Some(false) => " (not virtualized)",
            None => "",
        };
        writeln!(f, "CPU      {}{place}", self.host.cpu.clone().unwrap_or_else(unknown))?;
        if let [_, _, ..] = self.host.nodes.as_slice() {
            writeln!(
                f,
                "nodes    {:?}, among which --nodes divides a guest's memory",
                self.host.nodes
            )?;
        }
        if !self.probes.is_empty() {
            writeln!(f)?;
        }
        for probe in &self.probes {
            write!(f, "{probe}")?;
        }
        writeln!(f)?;
        match &self.problem {
            Some(problem) => writeln!(f, "mmvisor cannot work here: {problem}"),
            None if self.is_usable() => writeln!(f, "mmvisor can work here."),
            None => writeln!(f, "mmvisor cannot work here: see what failed above."),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Pass { microseconds, detail } => {
                let cost = microseconds.map_or_else(String::new, |cost| format!("{cost:.1} us"));
                writeln!(f, "pass  {:<22}{cost:>11}  {detail}", self.name)
            }
            Outcome::Fail { reason } => {
                writeln!(f, "FAIL  {:<22}{:>11}  {reason}", self.name, "")?;
                writeln!(f, "      {:<22}{:>11}  needed: {}", "", "", self.proves)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[Outcome]) -> Report {
        let probe = |outcome: &Outcome| Probe {
            name: "page fault",
            proves: "the host learns of it",
            outcome: outcome.clone(),
        };
        Report { host: Host::of(None), problem: None, probes: outcomes.iter().map(probe).collect() }
    }

    #[test]
    fn one_failure_or_no_answer_at_all_makes_it_unusable() {
        let pass = Outcome::Pass { microseconds: Some(1.5), detail: "a fault".to_owned() };
        let fail = Outcome::Fail { reason: "the guest hung".to_owned() };
        assert!(report(std::slice::from_ref(&pass)).is_usable());
        assert!(!report(&[pass, fail]).is_usable());
        assert!(!report(&[]).is_usable());
        assert!(!Report { problem: Some("no device".to_owned()), ..report(&[]) }.is_usable());
    }

    #[test]
    fn the_hosts_nodes_are_told_where_it_has_several() {
        let told = |nodes: &[usize]| {
            let host = Host { nodes: nodes.to_vec(), ..Host::of(None) };
            Report { host, ..report(&[]) }.to_string()
        };
        assert!(told(&[0, 2]).contains("\nnodes    [0, 2], among"), "{}", told(&[0, 2]));
        assert!(!told(&[0]).contains("nodes"));
    }

    #[test]
    fn the_json_form_has_the_verdict_and_each_answer() {
        let fail = Outcome::Fail { reason: "the guest hung".to_owned() };
        let json: serde_json::Value =
            serde_json::from_str(&report(&[fail]).to_json().unwrap()).unwrap();
        assert_eq!(json["usable"], false);
        assert_eq!(json["probes"][0]["name"], "page fault");
        assert_eq!(json["probes"][0]["outcome"]["result"], "fail");
        assert_eq!(json["probes"][0]["outcome"]["reason"], "the guest hung");
    }
}
