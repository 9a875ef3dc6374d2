package dev.rollcall.spark;

import io.fabric8.kubernetes.api.model.HasMetadata;
import io.fabric8.kubernetes.api.model.OwnerReference;
import io.fabric8.kubernetes.api.model.OwnerReferenceBuilder;
import io.fabric8.kubernetes.api.model.Pod;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientException;
import java.lang.reflect.Method;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.SecurityManager;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.SparkContext$;
import org.apache.spark.SparkException;
import org.apache.spark.deploy.k8s.Config$;
import org.apache.spark.deploy.k8s.KubernetesConf$;
import org.apache.spark.resource.ResourceProfile;
import org.apache.spark.resource.ResourceProfile$;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerApplicationEnd;
import org.apache.spark.scheduler.cluster.SchedulerBackendUtils;
import org.apache.spark.scheduler.cluster.k8s.AbstractPodsAllocator;
import org.apache.spark.scheduler.cluster.k8s.ExecutorPodsAllocator;
import org.apache.spark.scheduler.cluster.k8s.ExecutorPodsSnapshotsStore;
import org.apache.spark.scheduler.cluster.k8s.KubernetesClusterSchedulerBackend;
import org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBuilder;
import org.apache.spark.util.Clock;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import scala.Function1;
import scala.Option;
import scala.Tuple2;
import scala.runtime.BoxedUnit;

/**
 * Hands the executors of an application to Rollcall.
 *
 * <p>It allocates nothing. Spark describes an executor (its own {@link KubernetesExecutorBuilder} makes the pod) and
 * says how many it wants; both go into an ExecutorFleet, and Rollcall creates the pods, watches them and replaces
 * them.
 *
 * <p>Select it with
 * {@code spark.kubernetes.allocation.pods.allocator=dev.rollcall.spark.RollcallPodsAllocator}. Spark calls the
 * constructor with exactly these parameters, then {@link #start} and {@link #setTotalExpectedExecutors} while the
 * SparkContext is made: an exception there ends the application with its message.
 */
public class RollcallPodsAllocator extends AbstractPodsAllocator {
  private static final Logger LOG = LoggerFactory.getLogger(RollcallPodsAllocator.class);

  /** How long a new SparkContext waits for the API server's answer to its first ExecutorFleet. */
  private static final long FIRST_ANSWER_MS = 15_000;
  /** How long the end of the application may wait for a request that is under way. */
  private static final long LAST_REQUEST_MS = 5_000;
  /** Spark ends with it when an allocator's subscriber throws what cannot be helped. */
  private static final int EXIT_CODE = 1;

  private final SparkConf conf;
  private final SecurityManager security;
  private final KubernetesExecutorBuilder builder;
  private final KubernetesClient client;
  private final ExecutorPodsSnapshotsStore store;
  private final Clock clock;
  private final Settings settings;
  private final String namespace;
  private final Option<Pod> driver;
  private final Deletions deletions = new Deletions();
  private final Fleets fleets;
  private final Keeper keeper;

  // Guarded by `this`.
  private final Map<ResourceProfile, Integer> wishes = new LinkedHashMap<>();
  private String applicationId;
  private KubernetesClusterSchedulerBackend backend;
  /** The SparkContext is being made: a problem is an exception, not an exit. */
  private boolean starting;
  private volatile Problem problem;
  private boolean listening;

  /** Spark's own allocator, if Rollcall cannot take over and the application may go on without it. */
  private volatile ExecutorPodsAllocator own;

  public RollcallPodsAllocator(
      SparkConf conf,
      SecurityManager security,
      KubernetesExecutorBuilder builder,
      KubernetesClient client,
      ExecutorPodsSnapshotsStore store,
      Clock clock) {
    this.conf = conf;
    this.security = security;
    this.builder = builder;
    this.client = client;
    this.store = store;
    this.clock = clock;
    this.settings = new Settings(conf);
    this.namespace = conf.get(Config$.MODULE$.KUBERNETES_NAMESPACE());
    this.driver = Option.apply(findDriver());
    this.fleets = new ApiFleets(client, namespace);
    this.keeper = new Keeper(fleets, System::currentTimeMillis, settings.startTimeoutMs, this::unavailable);
  }

  /** The driver's pod. Without one, nothing would end the executors with the application. */
  private Pod findDriver() {
    String name = Scala.orNull(conf.get(Config$.MODULE$.KUBERNETES_DRIVER_POD_NAME()));
    if (name == null) {
      throw sparkException(
          "Rollcall's pods allocator needs the driver's pod: executors belong to it. Cluster mode sets"
              + " spark.kubernetes.driver.pod.name; in client mode run the driver in a pod and set it to the pod's"
              + " name.",
          null);
    }
    Pod pod = client.pods().inNamespace(namespace).withName(name).get();
    if (pod == null) {
      throw sparkException(
          "No pod was found named " + name + " in the cluster in the namespace " + namespace
              + " (this was supposed to be the driver pod.).",
          null);
    }
    return pod;
  }

  @Override
  public Option<Pod> driverPod() {
    return driver;
  }

  @Override
  public void start(String applicationId, KubernetesClusterSchedulerBackend backend) {
    ResourceProfile profile = ResourceProfile$.MODULE$.getOrCreateDefaultProfile(conf);
    // The number with which the backend will call setTotalExpectedExecutors in a moment.
    int executors = SchedulerBackendUtils.getInitialTargetExecutorNumber(conf, 2);
    synchronized (this) {
      this.applicationId = applicationId;
      this.backend = backend;
      starting = true;
      wishes.put(profile, executors);
    }
    remark();
    // An exception of Spark's builder (no image, a broken pod template) ends the application here.
    hand(profile, executors);
    keeper.start();
    awaitFirstAnswer(profile.id());
    Problem failed;
    synchronized (this) {
      starting = false;
      failed = problem;
    }
    if (failed == null) {
      long delayMs = conf.getTimeAsMs("spark.kubernetes.allocation.batch.delay", "1s");
      store.addSubscriber(
          delayMs,
          (Function1)
              snapshots -> {
                deletions.observe(Scala.list((scala.collection.Iterable) snapshots));
                listen();
                return BoxedUnit.UNIT;
              });
    } else if (settings.fallback) {
      fallBack(failed);
    } else {
      throw sparkException(withoutRollcall(failed), failed);
    }
  }

  private void awaitFirstAnswer(int profile) {
    long deadlineNs = System.nanoTime() + FIRST_ANSWER_MS * 1_000_000;
    while (System.nanoTime() < deadlineNs && !keeper.hasWritten(profile)) {
      synchronized (this) {
        if (problem != null) {
          return;
        }
      }
      try {
        Thread.sleep(50);
      } catch (InterruptedException interrupted) {
        Thread.currentThread().interrupt();
        return;
      }
    }
  }

  @Override
  public void setTotalExpectedExecutors(scala.collection.immutable.Map<ResourceProfile, Object> wanted) {
    ExecutorPodsAllocator delegate;
    synchronized (this) {
      for (Tuple2<ResourceProfile, Object> each : Scala.list(wanted)) {
        wishes.put(each._1(), (Integer) each._2());
      }
      delegate = own;
    }
    if (delegate != null) {
      delegate.setTotalExpectedExecutors(wanted);
      return;
    }
    for (Tuple2<ResourceProfile, Object> each : Scala.list(wanted)) {
      try {
        hand(each._1(), (Integer) each._2());
      } catch (Exception error) {
        cannotDescribe(each._1(), error);
      }
    }
  }

  /** Spark cannot make the pod of a profile. Its own allocator would log that once a second, and the job waits. */
  private void cannotDescribe(ResourceProfile profile, Exception error) {
    synchronized (this) {
      if (problem != null) {
        return;
      }
      problem = new Problem(
          Problem.Kind.REFUSED,
          "Spark cannot describe the executors of resource profile " + profile.id() + ": " + error.getMessage() + ".",
          error);
    }
    // Not on Spark's thread, which the end of the application needs.
    Thread report = new Thread(() -> unavailable(problem), "rollcall-pods-allocator-problem");
    report.setDaemon(true);
    report.start();
  }

  /** Gives a wish to the keeper; with the first one of a profile, Spark makes the pod. */
  private void hand(ResourceProfile profile, int executors) {
    int id = profile.id();
    String prefix = conf.get(Config$.MODULE$.KUBERNETES_EXECUTOR_POD_NAME_PREFIX()).get();
    String name = FleetDocument.name(prefix, id);
    if (keeper.knows(id)) {
      keeper.wish(id, name, null, executors);
      return;
    }
    String application;
    synchronized (this) {
      application = applicationId;
    }
    FleetDocument.firstExecutorId(id);
    ExecutorTemplate template =
        ExecutorTemplate.make(conf, security, builder, client, driver, application, profile, name);
    template.remarks.forEach(remark -> LOG.warn("Fleet {}: {}", name, remark));
    if (template.hasClaims() && conf.getBoolean("spark.kubernetes.driver.reusePersistentVolumeClaim", true)) {
      LOG.warn(
          "Fleet {}: volume claims that Spark creates on demand are generic ephemeral volumes of the executor's pod"
              + " here. They end with the pod: spark.kubernetes.driver.ownPersistentVolumeClaim,"
              + " reusePersistentVolumeClaim and waitToReusePersistentVolumeClaim have no effect.",
          name);
    }
    String label = KubernetesConf$.MODULE$.getAppNameLabel(conf.get("spark.app.name"));
    boolean[] shared = {template.shared.isEmpty()};
    keeper.wish(
        id,
        name,
        number -> {
          if (!shared[0]) {
            template.shared.forEach(this::createShared);
            shared[0] = true;
          }
          return FleetDocument.of(
              settings, namespace, prefix, application, label, driver.get(), id, template, number);
        },
        executors);
  }

  /** Creates what all executors use, for instance a ConfigMap of a feature step. It ends with the driver. */
  private void createShared(HasMetadata resource) {
    Pod pod = driver.get();
    OwnerReference owner =
        new OwnerReferenceBuilder()
            .withApiVersion("v1")
            .withKind("Pod")
            .withName(pod.getMetadata().getName())
            .withUid(pod.getMetadata().getUid())
            .withController(false)
            .build();
    resource.getMetadata().setOwnerReferences(Collections.singletonList(owner));
    String name = resource.getKind() + " " + resource.getMetadata().getName();
    try {
      client.resource(resource).inNamespace(namespace).create();
      LOG.info("Created {} for the executors", name);
    } catch (KubernetesClientException error) {
      if (error.getCode() == 409) {
        return;
      }
      Problem.Kind kind =
          error.getCode() == 403
              ? Problem.Kind.FORBIDDEN
              : error.getCode() >= 400 && error.getCode() < 500 && error.getCode() != 429
                  ? Problem.Kind.REFUSED
                  : Problem.Kind.PASSING;
      throw new Problem(kind, "Cannot create " + name + ", which the executors need: " + error.getMessage(), error);
    }
  }

  private void remark() {
    if (!settings.heartbeat().containsKey("disabled")) {
      LOG.info("Executors report to Rollcall with GraphiteSink: {}", settings.heartbeat());
    } else {
      LOG.info(
          "No GraphiteSink is configured with spark.metrics.conf.*: Rollcall expects no heartbeats, and a running"
              + " pod is an available executor");
    }
    settings.remarks.forEach(LOG::warn);
  }

  @Override
  public boolean isDeleted(String executorId) {
    ExecutorPodsAllocator delegate = own;
    return delegate != null ? delegate.isDeleted(executorId) : deletions.contains(executorId);
  }

  /**
   * Spark calls this before the end of the driver, unless spark.kubernetes.executor.deleteOnTermination=false. The
   * fleets stay, with the number 0, as long as the driver's pod: they show how the application went.
   */
  @Override
  public void stop(String applicationId) {
    ExecutorPodsAllocator delegate = own;
    if (delegate != null) {
      delegate.stop(applicationId);
      return;
    }
    keeper.stop(LAST_REQUEST_MS);
    for (String name : keeper.written()) {
      quietly("write that fleet " + name + " has ended", () -> fleets.scale(name, 0));
    }
    // As Spark's own allocator does.
    quietly(
        "delete the executors' pods",
        () ->
            client
                .pods()
                .inNamespace(namespace)
                .withLabel("spark-app-selector", applicationId)
                .withLabel("spark-role", "executor")
                .delete());
  }

  private static void quietly(String what, Runnable action) {
    try {
      action.run();
    } catch (RuntimeException error) {
      LOG.warn("Cannot {}; it ends with the driver's pod: {}", what, error.getMessage());
    }
  }

  /**
   * Tells the keeper when the application ends. Spark stops its executors a moment before it calls {@link #stop}, and
   * does not call that at all when pods are kept: Rollcall would replace all of them.
   */
  private synchronized void listen() {
    if (listening) {
      return;
    }
    SparkContext context = Scala.orNull(SparkContext$.MODULE$.getActive());
    if (context == null || context.isStopped()) {
      return;
    }
    context.addSparkListener(
        new SparkListener() {
          @Override
          public void onApplicationEnd(SparkListenerApplicationEnd end) {
            keeper.end();
          }
        });
    listening = true;
  }

  /** Called by the keeper on its thread, once. */
  private void unavailable(Problem failed) {
    synchronized (this) {
      problem = failed;
      if (starting) {
        return;
      }
    }
    if (settings.fallback) {
      fallBack(failed);
      return;
    }
    LOG.error(withoutRollcall(failed));
    // On its own thread: the end of the application stops the keeper, whose thread this is.
    Thread exit = new Thread(() -> System.exit(EXIT_CODE), "rollcall-pods-allocator-exit");
    exit.setDaemon(true);
    exit.start();
  }

  private static String withoutRollcall(Problem failed) {
    return "Rollcall cannot run the executors of this application, and it ends here. " + failed.getMessage()
        + " With " + Settings.FALLBACK + "=true, Spark's own allocator creates the executors in such a case.";
  }

  /** Spark's own allocator takes over. */
  private void fallBack(Problem failed) {
    LOG.error(
        "Rollcall cannot run the executors of this application: Spark's own allocator does ({} is true). {}",
        Settings.FALLBACK,
        failed.getMessage());
    for (String name : keeper.written()) {
      // Both would create executors with the same ids.
      while (!deleted(name)) {
        try {
          Thread.sleep(Keeper.LAST_BACKOFF_MS);
        } catch (InterruptedException interrupted) {
          Thread.currentThread().interrupt();
          return;
        }
      }
    }
    synchronized (this) {
      ExecutorPodsAllocator delegate = new ExecutorPodsAllocator(conf, security, builder, client, store, clock);
      passLifecycleManagerTo(delegate);
      delegate.start(applicationId, backend);
      Map<ResourceProfile, Object> all = new LinkedHashMap<>(wishes);
      delegate.setTotalExpectedExecutors(Scala.map(all));
      own = delegate;
    }
  }

  private boolean deleted(String name) {
    try {
      fleets.delete(name);
      return true;
    } catch (Problem error) {
      LOG.error(
          "Spark's own allocator waits until the ExecutorFleet {} is deleted, because Rollcall could still use the"
              + " same executor ids. {}",
          name,
          error.getMessage());
      return error.kind == Problem.Kind.GONE;
    }
  }

  /** Spark 4.2 and newer count failed pods in it. Older versions do not have it, so it is not in the signature. */
  private void passLifecycleManagerTo(AbstractPodsAllocator delegate) {
    try {
      Method get = AbstractPodsAllocator.class.getMethod("executorPodsLifecycleManager");
      Object manager = get.invoke(this);
      for (Method method : AbstractPodsAllocator.class.getMethods()) {
        if (method.getName().equals("executorPodsLifecycleManager_$eq")) {
          method.invoke(delegate, manager);
        }
      }
    } catch (NoSuchMethodException older) {
      LOG.debug("This Spark's allocators have no lifecycle manager");
    } catch (ReflectiveOperationException error) {
      LOG.warn("Failed creations of pods will not count as failures of executors", error);
    }
  }

  /** SparkException is a checked exception for Java, but not for Spark, which expects it here. */
  private static RuntimeException sparkException(String message, Throwable cause) {
    return RollcallPodsAllocator.<RuntimeException>thrown(new SparkException(message, cause));
  }

  @SuppressWarnings("unchecked")
  private static <E extends Throwable> RuntimeException thrown(Throwable error) throws E {
    throw (E) error;
  }

  /** For tests. */
  List<String> written() {
    return keeper.written();
  }
}
