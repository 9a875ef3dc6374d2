import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.List;

import com.fasterxml.jackson.databind.JavaType;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.spark.scheduler.cluster.k8s.ExecutorRollDriverPlugin;
import org.apache.spark.status.AppStatusStore;
import org.apache.spark.status.ExecutorSummaryWrapper;
import org.apache.spark.status.api.v1.JacksonMessageWriter;
import org.apache.spark.util.kvstore.InMemoryStore;
import scala.Enumeration;
import scala.Option;

/**
 * Asks Spark's plugin. choose.py has it compiled by Janino, which Spark brings along: a call for each executor would
 * take minutes, and CI has no other Java compiler.
 */
public final class Choose {
    private final ObjectMapper reader = new ObjectMapper();
    private final ObjectMapper writer = new JacksonMessageWriter().mapper();
    private final JavaType wrappers;
    private final ExecutorRollDriverPlugin plugin = new ExecutorRollDriverPlugin();
    private final Method choose;
    private final Enumeration policies;
    private final String[] names;

    public Choose() throws Exception {
        reader.registerModule((com.fasterxml.jackson.databind.Module) module("com.fasterxml.jackson.module.scala.DefaultScalaModule$"));
        wrappers = reader.getTypeFactory().constructCollectionType(ArrayList.class, ExecutorSummaryWrapper.class);
        policies = (Enumeration) module("org.apache.spark.deploy.k8s.Config$ExecutorRollPolicy$");
        names = policies.values().mkString(",").split(",");
        Method found = null;
        Method[] methods = ExecutorRollDriverPlugin.class.getDeclaredMethods();
        for (int i = 0; i < methods.length; i++) {
            if (methods[i].getName().equals("choose")) {
                found = methods[i];
            }
        }
        found.setAccessible(true);
        choose = found;
    }

    /** A Scala object. */
    private static Object module(String name) throws Exception {
        return Class.forName(name).getField("MODULE$").get(null);
    }

    /**
     * What is stored as these executors, given as JSON of `ExecutorSummaryWrapper`: all and the active ones, as REST
     * answers them, then a policy and its pick, and so on, with ASCII's record separator between. No pick is empty.
     */
    public String ask(String executors, int minTasks) throws Exception {
        InMemoryStore store = new InMemoryStore();
        List stored = (List) reader.readValue(executors, wrappers);
        for (int i = 0; i < stored.size(); i++) {
            store.write(stored.get(i));
        }
        AppStatusStore status = new AppStatusStore(store, Option.empty(), Option.empty());
        plugin.minTasks_$eq(minTasks);
        String[] answer = new String[2 + 2 * names.length];
        answer[0] = writer.writeValueAsString(status.executorList(false));
        answer[1] = writer.writeValueAsString(status.executorList(true));
        for (int i = 0; i < names.length; i++) {
            Object[] arguments = new Object[] {status.executorList(true), policies.withName(names[i])};
            Option pick = (Option) choose.invoke(plugin, arguments);
            answer[2 + 2 * i] = names[i];
            answer[3 + 2 * i] = pick.isEmpty() ? "" : (String) pick.get();
        }
        return String.join("\u001e", answer);
    }
}
