package dev.rollcall.spark;

import io.fabric8.kubernetes.api.model.HasMetadata;
import io.fabric8.kubernetes.api.model.Pod;
import io.fabric8.kubernetes.api.model.PodBuilder;
import io.fabric8.kubernetes.client.ConfigBuilder;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientBuilder;
import java.util.Map;
import org.apache.spark.SecurityManager;
import org.apache.spark.SparkConf;
import org.apache.spark.deploy.k8s.KubernetesConf$;
import org.apache.spark.deploy.k8s.KubernetesExecutorSpec;
import org.apache.spark.resource.ResourceProfile;
import org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBuilder;
import scala.Option;

/** A driver's parts, as Spark would make them. */
final class Spark {
  static final String APPLICATION = "spark-0123456789abcdef";
  static final String PREFIX = "numbers-5f2a8c97b3d14e60";
  static final KubernetesExecutorBuilder BUILDER = new KubernetesExecutorBuilder();

  private Spark() {}

  /** Settings of every application; then those of `more`: key, value, key, value. */
  static SparkConf conf(String... more) {
    SparkConf conf =
        new SparkConf(false)
            .set("spark.app.name", "Numbers 2")
            .set("spark.app.id", APPLICATION)
            .set("spark.master", "k8s://http://127.0.0.1:1")
            .set("spark.kubernetes.namespace", "spark")
            .set("spark.kubernetes.driver.pod.name", "numbers-driver")
            .set("spark.kubernetes.executor.podNamePrefix", PREFIX)
            .set("spark.kubernetes.container.image", "registry.example/spark:1")
            .set("spark.driver.host", "numbers-driver-svc.spark.svc")
            .set("spark.driver.bindAddress", "10.0.0.7")
            .set("spark.driver.port", "7078");
    for (int at = 0; at < more.length; at += 2) {
      conf.set(more[at], more[at + 1]);
    }
    return conf;
  }

  static Pod driver() {
    return new PodBuilder()
        .withApiVersion("v1")
        .withKind("Pod")
        .withNewMetadata()
        .withName("numbers-driver")
        .withNamespace("spark")
        .withUid("0f3d4c1e-8d2e-4f5b-9a6c-7b8a9c0d1e2f")
        .endMetadata()
        .build();
  }

  static SecurityManager security(SparkConf conf) {
    return new SecurityManager(
        conf, Option.empty(), org.apache.spark.internal.config.package$.MODULE$.AUTH_SECRET_FILE());
  }

  /** A client that is never used to connect, or one for a port of this machine. */
  static KubernetesClient client(int port) {
    return new KubernetesClientBuilder()
        .withConfig(
            new ConfigBuilder()
                .withMasterUrl("http://127.0.0.1:" + port)
                .withNamespace("spark")
                .withRequestRetryBackoffLimit(0)
                .withAutoConfigure(false)
                .build())
        .build();
  }

  /** What Spark's own allocator would create for an executor: the pod, as a tree. */
  static Map<String, Object> pod(SparkConf conf, KubernetesClient client, ResourceProfile profile, String id) {
    return ExecutorTemplate.tree(ExecutorTemplate.whole(spec(conf, client, profile, id)));
  }

  static KubernetesExecutorSpec spec(SparkConf conf, KubernetesClient client, ResourceProfile profile, String id) {
    return BUILDER.buildFromFeatures(
        KubernetesConf$.MODULE$.createExecutorConf(conf, id, APPLICATION, Option.apply(driver()), profile.id()),
        security(conf),
        client,
        profile);
  }

  static ExecutorTemplate template(SparkConf conf, KubernetesClient client, ResourceProfile profile) {
    String name = FleetDocument.name(conf.get("spark.kubernetes.executor.podNamePrefix"), profile.id());
    return ExecutorTemplate.make(
        conf, security(conf), BUILDER, client, Option.apply(driver()), APPLICATION, profile, name);
  }

  static scala.collection.immutable.Seq<HasMetadata> seq(HasMetadata... items) {
    scala.collection.immutable.List<HasMetadata> list = scala.collection.immutable.List$.MODULE$.<HasMetadata>empty();
    for (int at = items.length - 1; at >= 0; at--) {
      list = list.$colon$colon(items[at]);
    }
    return list;
  }
}
