//! What a pods allocator in Spark's driver writes.

use fleet::id::ExecutorId;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;

use super::*;

/// What the pods allocator in the drivers of Spark 3.5.9 and 4.3.0 wrote to a real API server.
#[test]
fn an_executors_pod_is_as_spark_describes_it() {
    for (version, written) in [
        ("3.5.9", include_str!("../../../../tests/fixtures/spark-allocator/3.5.9.json")),
        ("4.3.0", include_str!("../../../../tests/fixtures/spark-allocator/4.3.0.json")),
    ] {
        let object: Value = serde_json::from_str(written).unwrap();
        let config = from_object(&object, 1).unwrap();
        assert_eq!(config.check(&["OUTLIER".to_owned()]), [], "{version}");
        let spec = config.fleet_spec("uid".into(), "spark-1");
        assert_eq!((spec.ids.first, spec.ids.last), (ExecutorId(1), ExecutorId(1_000_000)));
        assert_eq!(spec.scale_down, fleet::spec::ScaleDown::Driver);
        assert!(!config.document(1).needs_address, "Spark's pod has the driver's address");
        let template = config.template(String::new(), None).unwrap().unwrap();
        let owner = OwnerReference { uid: "uid".to_owned(), ..OwnerReference::default() };
        let pod = template.pod("spark-1", ExecutorId(17), "f-exec-17", owner.clone(), &[]);
        // The same by another way: the id stands where the placeholder was, and nothing else is different.
        let told = object["spec"]["executorPod"].to_string().replace("{{EXECUTOR_ID}}", "17");
        let mut expected: Value = serde_json::from_str(&told).unwrap();
        expected["metadata"]["name"] = "f-exec-17".into();
        expected["metadata"]["ownerReferences"] = serde_json::to_value([owner]).unwrap();
        expected["metadata"]["labels"]["spark-app-selector"] = "spark-1".into();
        let expected: Pod = serde_json::from_value(expected).unwrap();
        assert_eq!(pod, expected, "{version}");
        assert!(!serde_json::to_string(&pod).unwrap().contains("{{"), "{version}");
    }
}

#[test]
fn an_executors_pod_stands_alone() {
    let dir = Dir::new("alone");
    let pod = "executorPod: {spec: {containers: [{name: e, image: i}]}}";
    let own = |rest: &str| {
        format!(
            "apiVersion: rollcall.dev/v1alpha1\nkind: ExecutorFleet\nmetadata: {{name: a}}\nspec:\n  mode: Own\n  \
             executors: 1\n  driver: {{podName: d}}\n{rest}"
        )
    };
    let refused = |rest: &str| dir.problems("f.yaml", own(rest)).join("\n");
    assert_eq!(refused(&format!("  {pod}\n")), "");
    let both = refused(&format!("  {pod}\n  template: {{spec: {{containers: [{{name: e, image: i}}]}}}}\n"));
    assert!(both.contains("cannot be combined with spec.executorPod"), "{both}");
    assert!(refused(&format!("  {pod}\n  spark: {{}}\n")).contains("spec.spark: has no use"));
    let profile = refused("  resourceProfile: 1\n  template: {spec: {containers: [{name: e, image: i}]}}\n");
    assert!(profile.contains("spec.resourceProfile: has no use"), "{profile}");
    let first = refused(&format!("  firstExecutorId: 2145483649\n  {pod}\n"));
    assert!(first.contains("spec.firstExecutorId"), "{first}");
    let restarts = refused("  executorPod: {spec: {restartPolicy: Always, containers: [{name: e}]}}\n");
    assert!(restarts.contains("spec.executorPod.spec.restartPolicy"), "{restarts}");
}
