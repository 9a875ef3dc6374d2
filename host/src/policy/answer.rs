//! Answers in a form for people and scripts.

use ::policy::{Evaluation, Fault};
use fleet::question::{LossReason, RollQuestion, Selection, Verdict};
use serde::Serialize;

/// The answer of a policy to one question.
#[derive(Serialize, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub policy: String,
    /// `roll`, `nothing`, `known`, `undetermined`, `abstain`, or the label of a fault.
    pub outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picks: Option<Vec<Pick>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Reason>,
    /// Why nothing is rolled, or what the fault was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub complaints: Vec<String>,
    #[serde(skip)]
    pub fault: Option<Fault>,
}

#[derive(Serialize, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Pick {
    /// As Spark writes it.
    pub executor_id: String,
    pub score: f64,
    pub reason: String,
}

#[derive(Serialize, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    pub kind: String,
    pub exit_caused_by_app: bool,
    pub exit_code: Option<i32>,
    pub keep_pod: bool,
    pub message: String,
}

pub fn selection(policy: &str, question: &RollQuestion, evaluation: &Evaluation<Selection>) -> Answer {
    let ids = question.candidates.ids();
    let (outcome, picks, reason) = match &evaluation.answer {
        Ok(Selection::Roll(picks)) => {
            let picks = picks.iter().map(|pick| Pick {
                executor_id: ids[pick.index].to_string(),
                score: pick.score,
                reason: pick.reason.clone(),
            });
            ("roll", picks.collect(), None)
        }
        Ok(Selection::Nothing(reason)) => ("nothing", Vec::new(), Some(reason.clone())),
        Ok(Selection::Abstain) => ("abstain", Vec::new(), None),
        Err(fault) => (fault.label(), Vec::new(), Some(fault.to_string())),
    };
    Answer {
        policy: policy.into(),
        outcome: outcome.into(),
        picks: Some(picks),
        verdict: None,
        reason,
        complaints: evaluation.complaints.iter().map(ToString::to_string).collect(),
        fault: evaluation.answer.as_ref().err().cloned(),
    }
}

pub fn verdict(policy: &str, evaluation: &Evaluation<Verdict>) -> Answer {
    let (outcome, verdict, reason) = match &evaluation.answer {
        Ok(Verdict::Known(known)) => {
            let LossReason { kind, message, exit_caused_by_app, exit_code, keep_pod } = known.clone();
            let kind = kind.name().into();
            ("known", Some(Reason { kind, exit_caused_by_app, exit_code, keep_pod, message }), None)
        }
        Ok(Verdict::Undetermined) => ("undetermined", None, None),
        Ok(Verdict::Abstain) => ("abstain", None, None),
        Err(fault) => (fault.label(), None, Some(fault.to_string())),
    };
    Answer {
        policy: policy.into(),
        outcome: outcome.into(),
        picks: None,
        verdict,
        reason,
        complaints: Vec::new(),
        fault: evaluation.answer.as_ref().err().cloned(),
    }
}
