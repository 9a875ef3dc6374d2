package dev.rollcall.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.fabric8.kubernetes.api.model.Pod;
import io.fabric8.kubernetes.api.model.PodBuilder;
import io.fabric8.kubernetes.client.KubernetesClient;
import java.lang.reflect.Proxy;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.apache.spark.SecurityManager;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkException;
import org.apache.spark.deploy.k8s.KubernetesExecutorConf;
import org.apache.spark.deploy.k8s.SparkPod;
import org.apache.spark.deploy.k8s.features.KubernetesExecutorCustomFeatureConfigStep;
import org.apache.spark.resource.ExecutorResourceRequests;
import org.apache.spark.resource.ResourceProfile;
import org.apache.spark.resource.ResourceProfile$;
import org.apache.spark.resource.ResourceProfileBuilder;
import org.apache.spark.scheduler.cluster.k8s.AbstractPodsAllocator;
import org.apache.spark.scheduler.cluster.k8s.ExecutorPodsSnapshot;
import org.apache.spark.scheduler.cluster.k8s.ExecutorPodsSnapshot$;
import org.apache.spark.scheduler.cluster.k8s.ExecutorPodsSnapshotsStore;
import org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBuilder;
import org.apache.spark.util.Clock;
import org.apache.spark.util.SystemClock;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import scala.Function1;

/** The whole allocator, made and called as Spark does it, against an API server of this test. */
class AllocatorTest {
  private static final String NAME = Spark.PREFIX;

  private ApiServer server;
  private KubernetesClient client;
  private AbstractPodsAllocator allocator;
  private final List<Function1<Object, Object>> subscribers = new ArrayList<>();

  @BeforeEach
  void start() throws Exception {
    ResourceProfile$.MODULE$.clearDefaultProfile();
    server = new ApiServer();
    client = Spark.client(server.port());
  }

  @AfterEach
  void stop() {
    client.close();
    server.close();
  }

  /** As KubernetesClusterManager.makeExecutorPodsAllocator does it. */
  private AbstractPodsAllocator make(SparkConf conf) throws Exception {
    Class<?> type = Class.forName("dev.rollcall.spark.RollcallPodsAllocator");
    return (AbstractPodsAllocator)
        type.getConstructor(
                SparkConf.class,
                SecurityManager.class,
                KubernetesExecutorBuilder.class,
                KubernetesClient.class,
                ExecutorPodsSnapshotsStore.class,
                Clock.class)
            .newInstance(
                conf, Spark.security(conf), new KubernetesExecutorBuilder(), client, store(), new SystemClock());
  }

  @SuppressWarnings("unchecked")
  private ExecutorPodsSnapshotsStore store() {
    return (ExecutorPodsSnapshotsStore)
        Proxy.newProxyInstance(
            getClass().getClassLoader(),
            new Class<?>[] {ExecutorPodsSnapshotsStore.class},
            (proxy, method, arguments) -> {
              if (method.getName().equals("addSubscriber")) {
                subscribers.add((Function1<Object, Object>) arguments[1]);
              }
              return null;
            });
  }

  private void wish(ResourceProfile profile, int executors) {
    Map<ResourceProfile, Object> wishes = new LinkedHashMap<>();
    wishes.put(profile, executors);
    allocator.setTotalExpectedExecutors(Scala.map(wishes));
  }

  private void begin(String... settings) throws Exception {
    SparkConf conf = Spark.conf(settings);
    allocator = make(conf);
    allocator.start(Spark.APPLICATION, null);
  }

  private static ResourceProfile defaultProfile() {
    return ResourceProfile$.MODULE$.getOrCreateDefaultProfile(Spark.conf());
  }

  private static void eventually(Object expected, Callable<Object> actual) throws Exception {
    long deadline = System.currentTimeMillis() + 20_000;
    while (System.currentTimeMillis() < deadline && !expected.equals(actual.call())) {
      Thread.sleep(20);
    }
    assertEquals(expected, actual.call());
  }

  @Test
  void anApplication() throws Exception {
    begin("spark.executor.instances", "3");
    assertEquals("numbers-driver", allocator.driverPod().get().getMetadata().getName());
    // Before `start` returns: an application whose fleet is refused does not start.
    assertEquals(3, server.executors(NAME));
    Map<String, Object> fleet = server.fleets.get(NAME);
    Map<String, Object> metadata = ExecutorTemplate.map(fleet.get("metadata"));
    assertEquals(
        "{spark-app-selector=" + Spark.APPLICATION
            + ", spark-app-name=numbers-2, rollcall.dev/managed-by=spark-allocator}",
        metadata.get("labels").toString());
    assertEquals(
        "[{apiVersion=v1, kind=Pod, controller=false, name=numbers-driver, uid=0f3d4c1e-8d2e-4f5b-9a6c-7b8a9c0d1e2f}]",
        metadata.get("ownerReferences").toString());
    wish(defaultProfile(), 3);
    wish(defaultProfile(), 4);
    wish(defaultProfile(), 6);
    eventually(6, () -> server.executors(NAME));
    assertTrue(server.requests.contains("PUT " + ApiServer.FLEETS + "/" + NAME + "/scale"), server.requests::toString);
    assertTrue(server.pods.isEmpty());

    ResourceProfile other =
        new ResourceProfileBuilder().require(new ExecutorResourceRequests().cores(2)).build();
    wish(other, 2);
    String name = NAME + "-rp" + other.id();
    eventually(2, () -> server.executors(name));
    Map<String, Object> spec = ExecutorTemplate.map(server.fleets.get(name).get("spec"));
    assertEquals(other.id(), spec.get("resourceProfile"));
    assertEquals(1 + other.id() * 1_000_000, spec.get("firstExecutorId"));
    assertEquals(6, server.executors(NAME));

    allocator.stop(Spark.APPLICATION);
    assertEquals(0, server.executors(NAME));
    assertEquals(0, server.executors(name));
    assertTrue(server.requests.contains("DELETE /api/v1/namespaces/spark/pods"), server.requests::toString);
  }

  @Test
  void withoutTheScaleSubresource() throws Exception {
    server.withoutScale = true;
    begin();
    wish(defaultProfile(), 9);
    eventually(9, () -> server.executors(NAME));
    String patch = "PATCH " + ApiServer.FLEETS + "/" + NAME + " application/merge-patch+json";
    assertTrue(
        server.requests.stream().anyMatch(request -> request.startsWith(patch)), server.requests::toString);
    allocator.stop(Spark.APPLICATION);
  }

  @Test
  void oneFailureAfterTheOther() throws Exception {
    begin();
    server.fleetsAnswer = 503;
    wish(defaultProfile(), 5);
    Thread.sleep(200);
    wish(defaultProfile(), 8);
    server.fleetsAnswer = 0;
    eventually(8, () -> server.executors(NAME));
    allocator.stop(Spark.APPLICATION);
  }

  @Test
  void withoutTheCustomResource() {
    server.served = false;
    // Without RBAC's rule, the answer is 403.
    for (int answer : new int[] {404, 403}) {
      server.fleetsAnswer = answer;
      SparkException error = assertThrows(SparkException.class, () -> begin());
      String missing = "does not know ExecutorFleets (rollcall.dev/v1alpha1)";
      assertTrue(error.getMessage().contains(missing), error.getMessage());
      assertTrue(error.getMessage().contains("spark.rollcall.fallback=true"), error.getMessage());
      assertTrue(subscribers.isEmpty());
    }
  }

  @Test
  void withoutTheRight() {
    server.fleetsAnswer = 403;
    SparkException error = assertThrows(SparkException.class, () -> begin());
    String rule = "{apiGroups: [rollcall.dev], resources: [executorfleets], verbs: [create, patch]}";
    assertTrue(error.getMessage().contains(rule), error.getMessage());
  }

  @Test
  void withoutADriverPod() {
    Throwable none =
        assertThrows(Exception.class, () -> make(Spark.conf().remove("spark.kubernetes.driver.pod.name"))).getCause();
    assertTrue(none.getMessage().contains("needs the driver's pod"), none.getMessage());
    Throwable other =
        assertThrows(Exception.class, () -> make(Spark.conf("spark.kubernetes.driver.pod.name", "gone"))).getCause();
    assertTrue(other.getMessage().contains("No pod was found named gone"), other.getMessage());
  }

  @Test
  void withoutAnImage() {
    SparkConf conf = Spark.conf().remove("spark.kubernetes.container.image");
    assertThrows(SparkException.class, () -> make(conf).start(Spark.APPLICATION, null));
    assertTrue(server.fleets.isEmpty());
  }

  /** A feature step that fails for every profile but the default one. */
  public static final class OnlyTheDefault implements KubernetesExecutorCustomFeatureConfigStep {
    @Override
    public void init(KubernetesExecutorConf conf) {
      if (conf.resourceProfileId() != 0) {
        throw new IllegalStateException("not for profile " + conf.resourceProfileId());
      }
    }

    @Override
    public SparkPod configurePod(SparkPod pod) {
      return pod;
    }
  }

  /** Not on Spark's thread, and not once a second. */
  @Test
  void aProfileThatCannotBeDescribed() throws Exception {
    begin(
        "spark.kubernetes.executor.pod.featureSteps", OnlyTheDefault.class.getName(),
        "spark.rollcall.fallback", "true");
    ResourceProfile other =
        new ResourceProfileBuilder().require(new ExecutorResourceRequests().cores(2)).build();
    wish(other, 2);
    wish(other, 3);
    // Spark's own allocator takes over.
    eventually(2, subscribers::size);
    assertTrue(server.fleets.isEmpty());
  }

  /** Spark's own allocator takes over, with the number that Spark wants. */
  @Test
  void fallback() throws Exception {
    server.fleetsAnswer = 404;
    begin("spark.rollcall.fallback", "true", "spark.kubernetes.allocation.driver.readinessTimeout", "1s");
    // Spark's own subscriber.
    assertEquals(1, subscribers.size());
    wish(defaultProfile(), 4);
    assertTrue(server.fleets.isEmpty());
    assertFalse(allocator.isDeleted("7"));
  }

  @Test
  void fallbackWhenRollcallDoesNotReport() throws Exception {
    server.observing = false;
    begin("spark.rollcall.fallback", "true", "spark.rollcall.startTimeout", "1s");
    assertEquals(1, server.fleets.size());
    eventually(2, subscribers::size);
    // Otherwise both would use the same executor ids.
    assertTrue(server.fleets.isEmpty());
  }

  @Test
  void deletedExecutors() throws Exception {
    begin();
    observe(pod("5", null), pod("6", "2026-01-01T00:00:00Z"), pod("7", null));
    assertFalse(allocator.isDeleted("5"));
    assertTrue(allocator.isDeleted("6"));
    // A list without them says nothing.
    observe();
    assertFalse(allocator.isDeleted("5"));
    assertTrue(allocator.isDeleted("6"));
    allocator.stop(Spark.APPLICATION);
  }

  private void observe(Pod... pods) {
    List<Pod> list = new ArrayList<>();
    Collections.addAll(list, pods);
    scala.collection.immutable.List<Pod> seq = scala.collection.immutable.List$.MODULE$.<Pod>empty();
    for (int at = pods.length - 1; at >= 0; at--) {
      seq = seq.$colon$colon(pods[at]);
    }
    ExecutorPodsSnapshot snapshot = ExecutorPodsSnapshot$.MODULE$.apply(seq, 1L);
    scala.collection.immutable.List<ExecutorPodsSnapshot> snapshots =
        scala.collection.immutable.List$.MODULE$.<ExecutorPodsSnapshot>empty().$colon$colon(snapshot);
    subscribers.get(0).apply(snapshots);
  }

  private static Pod pod(String id, String deletionTimestamp) {
    return new PodBuilder()
        .withNewMetadata()
        .withName(NAME + "-exec-" + id)
        .withDeletionTimestamp(deletionTimestamp)
        .addToLabels("spark-exec-id", id)
        .endMetadata()
        .withNewSpec()
        .endSpec()
        .withNewStatus()
        .withPhase("Running")
        .endStatus()
        .build();
  }
}
