package dev.rollcall.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.fabric8.kubernetes.api.model.ConfigMapBuilder;
import io.fabric8.kubernetes.api.model.HasMetadata;
import io.fabric8.kubernetes.api.model.PodBuilder;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.utils.Serialization;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.SparkConf;
import org.apache.spark.deploy.k8s.KubernetesExecutorConf;
import org.apache.spark.deploy.k8s.SparkPod;
import org.apache.spark.deploy.k8s.features.KubernetesExecutorCustomFeatureConfigStep;
import org.apache.spark.resource.ExecutorResourceRequests;
import org.apache.spark.resource.ResourceProfile;
import org.apache.spark.resource.ResourceProfile$;
import org.apache.spark.resource.TaskResourceRequests;
import org.apache.spark.resource.ResourceProfileBuilder;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/**
 * Spark's real builder makes executor 7's pod, and the template's pod for executor 7 is compared with it field by
 * field. Each test lists what differs; README.md has the same list with the reasons.
 */
class PodsTest {
  private static final KubernetesClient CLIENT = Spark.client(1);
  private static final boolean FOUR = !org.apache.spark.package$.MODULE$.SPARK_VERSION().startsWith("3.");

  /** The default profile is made once per Java process, from the first settings. */
  @AfterEach
  void forgetTheProfile() {
    ResourceProfile$.MODULE$.clearDefaultProfile();
  }

  @AfterAll
  static void close() {
    CLIENT.close();
  }

  private static ResourceProfile profile(SparkConf conf) {
    return ResourceProfile$.MODULE$.getOrCreateDefaultProfile(conf);
  }

  /** The pod that Rollcall makes of a template, without what it adds itself (avoided nodes). */
  private static Map<String, Object> rollcalls(ExecutorTemplate template, String name) {
    String text = Serialization.asJson(template.pod).replace("{{EXECUTOR_ID}}", "7");
    Map<String, Object> pod = new LinkedHashMap<>();
    pod.put("apiVersion", "v1");
    pod.put("kind", "Pod");
    pod.putAll(ExecutorTemplate.map(Serialization.unmarshal(text, LinkedHashMap.class)));
    Map<String, Object> metadata = ExecutorTemplate.map(pod.get("metadata"));
    metadata.put("name", name + "-exec-7");
    Map<String, Object> owner = new LinkedHashMap<>();
    owner.put("apiVersion", "v1");
    owner.put("kind", "Pod");
    owner.put("name", Spark.driver().getMetadata().getName());
    owner.put("uid", Spark.driver().getMetadata().getUid());
    owner.put("controller", true);
    owner.put("blockOwnerDeletion", false);
    metadata.put("ownerReferences", new ArrayList<>(Collections.singletonList(owner)));
    return pod;
  }

  /**
   * Compares the two pods. The owner's `blockOwnerDeletion` differs always: Spark leaves it out. Not compared is what
   * differs between any two pods of Spark, too: the order of the local directories, and /var/data/spark-UUID.
   */
  private static ExecutorTemplate compare(SparkConf conf, ResourceProfile profile, String... differences) {
    ExecutorTemplate template = Spark.template(conf, CLIENT, profile);
    String name = FleetDocument.name(conf.get("spark.kubernetes.executor.podNamePrefix"), profile.id());
    Map<String, Object> sparks = Spark.pod(conf, CLIENT, profile, "7");
    List<String> found = new ArrayList<>();
    ExecutorTemplate.differ(
        "", ExecutorTemplate.settled(sparks), ExecutorTemplate.settled(rollcalls(template, name)), found);
    List<String> expected = new ArrayList<>(Arrays.asList(differences));
    expected.add("metadata.ownerReferences[0].blockOwnerDeletion");
    Collections.sort(expected);
    Collections.sort(found);
    assertEquals(expected, found, () -> Serialization.asJson(sparks) + Serialization.asJson(template.pod));
    return template;
  }

  private static ExecutorTemplate same(String... settings) {
    SparkConf conf = Spark.conf(settings);
    ExecutorTemplate template = compare(conf, profile(conf));
    assertEquals(Collections.emptyList(), template.remarks);
    return template;
  }

  @Test
  void plain() {
    ExecutorTemplate template = same();
    assertEquals("spark-kubernetes-executor", template.container);
    assertEquals(Collections.emptyList(), template.shared);
    assertFalse(template.hasClaims());
    String text = Serialization.asJson(template.pod);
    assertTrue(text.contains("{\"name\":\"SPARK_EXECUTOR_ID\",\"value\":\"{{EXECUTOR_ID}}\"}"), text);
    assertTrue(text.contains("\"spark-exec-id\":\"{{EXECUTOR_ID}}\""), text);
  }

  @Test
  void volumes() {
    String volumes = "spark.kubernetes.executor.volumes.";
    same(
        volumes + "emptyDir.scratch.mount.path", "/scratch",
        volumes + "emptyDir.scratch.options.sizeLimit", "2Gi",
        volumes + "hostPath.disks.mount.path", "/disks",
        volumes + "hostPath.disks.mount.readOnly", "true",
        volumes + "hostPath.disks.options.path", "/mnt/disks",
        volumes + "nfs.shared.mount.path", "/shared",
        volumes + "nfs.shared.options.server", "nfs.example",
        volumes + "nfs.shared.options.path", "/exports",
        volumes + "persistentVolumeClaim.models.mount.path", "/models",
        volumes + "persistentVolumeClaim.models.mount.subPath", "v2",
        volumes + "persistentVolumeClaim.models.options.claimName", "models",
        // Exists already, one for each id.
        volumes + "persistentVolumeClaim.own.mount.path", "/own",
        volumes + "persistentVolumeClaim.own.options.claimName", "disk-SPARK_EXECUTOR_ID");
  }

  @Test
  void claimsOnDemand() {
    String claim = "spark.kubernetes.executor.volumes.persistentVolumeClaim.spark-local-dir-1.";
    SparkConf conf =
        Spark.conf(
            claim + "mount.path", "/data",
            claim + "options.claimName", "OnDemand",
            claim + "options.storageClass", "fast",
            claim + "options.sizeLimit", "100Gi");
    ExecutorTemplate template =
        compare(conf, profile(conf), at("ephemeral"), at("persistentVolumeClaim"));
    assertTrue(template.hasClaims());
    assertEquals(Collections.emptyList(), template.shared);
    String text = Serialization.asJson(template.pod);
    assertTrue(text.contains("{\"name\":\"spark-local-dir-1\",\"ephemeral\":{\"volumeClaimTemplate\":"), text);
    assertTrue(text.contains("\"storageClassName\":\"fast\""), text);
    assertTrue(text.contains("\"storage\":\"100Gi\""), text);
    assertFalse(text.contains("claimName"), text);
  }

  /** The claim's volume is the second one, after Spark's configuration. */
  private static String at(String field) {
    return "spec.volumes[1]." + field;
  }

  @Test
  void secrets() {
    same(
        "spark.kubernetes.executor.secrets.keys", "/etc/keys",
        "spark.kubernetes.executor.secretKeyRef.PASSWORD", "database:password",
        "spark.executorEnv.ZONE", "a",
        "spark.authenticate", "true",
        "spark.authenticate.secret", "abc",
        "spark.kubernetes.container.image.pullSecrets", "pull-1,pull-2");
  }

  @Test
  void podTemplate() throws Exception {
    Path file = Paths.get(PodsTest.class.getResource("/executor.yaml").toURI());
    ExecutorTemplate template =
        same(
            "spark.kubernetes.executor.podTemplateFile", file.toUri().toString(),
            "spark.kubernetes.executor.podTemplateContainerName", "executor");
    assertEquals("executor", template.container);
  }

  @Test
  void gpus() {
    same(
        "spark.executor.resource.gpu.amount", "2",
        "spark.executor.resource.gpu.vendor", "nvidia.com",
        "spark.executor.resource.gpu.discoveryScript", "/opt/gpus.sh",
        "spark.task.resource.gpu.amount", "1",
        "spark.executor.cores", "4",
        "spark.kubernetes.executor.request.cores", "3500m",
        "spark.kubernetes.executor.limit.cores", "4");
  }

  @Test
  void hadoopAndKerberos() {
    same(
        "spark.kubernetes.executor.hadoopConfigMapName", "numbers-hadoop-config",
        "spark.kubernetes.kerberos.krb5.configMapName", "krb5",
        "spark.kubernetes.kerberos.tokenSecret.name", "tokens",
        "spark.kubernetes.kerberos.tokenSecret.itemKey", "hadoop-tokens");
  }

  @Test
  void localDirsInMemory() {
    same("spark.kubernetes.local.dirs.tmpfs", "true", "spark.local.dir", "/a,/b");
  }

  @Test
  void schedulerLabelsAndPlaces() {
    same(
        "spark.kubernetes.scheduler.name", "volcano",
        "spark.kubernetes.node.selector.disk", "ssd",
        "spark.kubernetes.executor.node.selector.pool", "executors",
        // Spark 3.5 substitutes in annotations only.
        "spark.kubernetes.executor.label.executor", FOUR ? "e-{{EXECUTOR_ID}}" : "e",
        "spark.kubernetes.executor.annotation.who", "{{APP_ID}}/{{EXECUTOR_ID}}",
        "spark.executorEnv.SPARK_EXECUTOR_DIRS", "/data/SPARK_APPLICATION_ID/SPARK_EXECUTOR_ID",
        "spark.ui.custom.executor.log.url", "http://logs.example/{{APP_ID}}/{{EXECUTOR_ID}}",
        "spark.kubernetes.authenticate.executor.serviceAccountName", "executor",
        "spark.kubernetes.executor.disableConfigMap", "true");
  }

  @Test
  void decommissionAndPython() {
    same(
        "spark.decommission.enabled", "true",
        "spark.storage.decommission.enabled", "true",
        "spark.kubernetes.resource.type", "python",
        "spark.executor.pyspark.memory", "512m",
        "spark.executor.memory", "2g",
        "spark.executor.memoryOverhead", "700m",
        "spark.memory.offHeap.enabled", "true",
        "spark.memory.offHeap.size", "256m",
        "spark.executor.extraJavaOptions",
        "-Dgc.log=/tmp/{{APP_ID}}-{{EXECUTOR_ID}}.log -XX:+UseG1GC '-Dtext=two words'");
  }

  @Test
  void anotherResourceProfile() {
    SparkConf conf = Spark.conf();
    profile(conf);
    ResourceProfile profile =
        new ResourceProfileBuilder()
            .require(new ExecutorResourceRequests().cores(3).memory("3g"))
            .require(new TaskResourceRequests().cpus(3))
            .build();
    // Spark calls the pods of all profiles PREFIX-exec-ID; here each profile has a name of its own.
    compare(conf, profile, "metadata.name", "spec.hostname");
  }

  @Test
  void longPrefix() {
    SparkConf conf =
        Spark.conf(
            "spark.kubernetes.executor.podNamePrefix",
            "the-quarterly-report-of-everything.and-more-of-it-5f2a8c97b3d14e60");
    compare(conf, profile(conf), "metadata.name", "spec.hostname");
  }

  @Test
  void literalPlaceholder() {
    SparkConf conf = Spark.conf("spark.executorEnv.PATTERN", "{{EXECUTOR_ID}}.log");
    ExecutorTemplate template = Spark.template(conf, CLIENT, profile(conf));
    assertEquals(1, template.remarks.size());
    assertTrue(template.remarks.get(0).contains("spec.containers[0].env["), template.remarks.toString());
  }

  /** A user's step: one resource for all, one for each, and a field that is computed from the id. */
  public static final class Step implements KubernetesExecutorCustomFeatureConfigStep {
    private String id;

    @Override
    public void init(KubernetesExecutorConf conf) {
      id = conf.executorId();
    }

    @Override
    public SparkPod configurePod(SparkPod pod) {
      return new SparkPod(
          new PodBuilder(pod.pod())
              .editMetadata()
              .addToLabels("parity", Long.parseLong(id) % 2 == 0 ? "even" : "odd")
              .addToLabels("plain", "id-" + id)
              .endMetadata()
              .build(),
          pod.container());
    }

    @Override
    public scala.collection.immutable.Seq<HasMetadata> getAdditionalKubernetesResources() {
      return Spark.seq(
          new ConfigMapBuilder().withNewMetadata().withName("for-all").endMetadata().build(),
          new ConfigMapBuilder().withNewMetadata().withName("for-" + id).endMetadata().build());
    }
  }

  @Test
  void featureStep() {
    SparkConf conf = Spark.conf("spark.kubernetes.executor.pod.featureSteps", Step.class.getName());
    ExecutorTemplate template = compare(conf, profile(conf));
    assertEquals(1, template.shared.size());
    assertEquals("for-all", template.shared.get(0).getMetadata().getName());
    assertEquals(2, template.remarks.size(), template.remarks.toString());
    assertTrue(template.remarks.get(0).contains("metadata.labels.parity"), template.remarks.toString());
    assertFalse(template.remarks.get(0).contains("plain"), template.remarks.toString());
    assertTrue(template.remarks.get(1).contains("for-{{EXECUTOR_ID}}"), template.remarks.toString());
  }
}
