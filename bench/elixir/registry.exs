# One stream per tab as an Elixir program does it: `Registry` with unique keys. Whoever takes a key ends the process that holds the key, and waits
# until that process is down. Takes a command and a number per line on standard input, and answers each with a line of numbers.

defmodule Streams do
  @timeout 5_000

  def replace_and_register(key) do
    case Registry.lookup(Streams, key) do
      [{holder, _}] -> replace(holder)
      [] -> :ok
    end

    {:ok, _} = Registry.register(Streams, key, nil)
  end

  defp replace(holder) do
    monitor = Process.monitor(holder)
    Process.exit(holder, :replaced)

    receive do
      {:DOWN, ^monitor, :process, _, _} -> :ok
    after
      @timeout -> Process.demonitor(monitor, [:flush])
    end
  end
end

defmodule Bench do
  def run do
    {:ok, _} = Registry.start_link(keys: :unique, name: Streams)
    loop(%{last: 0, held: []})
  end

  defp loop(state) do
    case IO.gets("") do
      :eof ->
        :ok

      line ->
        [command, count] = String.split(line)
        {numbers, state} = command(command, String.to_integer(count), state)
        IO.puts(Enum.join(numbers, " "))
        loop(state)
    end
  end

  # Registers keys that stay. Answers how many bytes each registration takes: the registry's tables with their copies of
  # the key, and the links between registry and holder. The processes and their heaps do not count.
  defp command("hold", count, state) do
    {keys, state} = new_keys(count, state)
    holders = Enum.map(keys, &new_holder/1)
    before = memory(holders)
    start_each(holders)
    {[div(memory(holders) - before, count)], state}
  end

  # The duration of each registration of a fresh key, in nanoseconds.
  defp command("fresh", count, state) do
    {keys, state} = new_keys(count, state)
    holders = Enum.map(keys, &new_holder/1)
    times = start_each(holders)
    stop_each(holders)
    {times, state}
  end

  # The same for keys that another process holds. The first call makes these keys.
  defp command("replace", count, %{held: []} = state) do
    {keys, state} = new_keys(count, state)
    keys |> Enum.map(&new_holder/1) |> start_each()
    command("replace", count, %{state | held: keys})
  end

  defp command("replace", _count, state) do
    {state.held |> Enum.map(&new_holder/1) |> start_each(), state}
  end

  defp new_keys(count, %{last: last} = state) do
    keys = for number <- (last + 1)..(last + count), do: {"user#{number}", "tab#{number}"}
    {keys, %{state | last: last + count}}
  end

  # A process that waits for its turn, registers the key, tells how long that took, and holds the key. The messages do not count.
  defp new_holder(key) do
    parent = self()

    spawn(fn ->
      receive do
        :start -> :ok
      end

      before = System.monotonic_time(:nanosecond)
      Streams.replace_and_register(key)
      send(parent, {:started, System.monotonic_time(:nanosecond) - before})

      receive do
        :stop -> :ok
      end
    end)
  end

  defp start_each(holders) do
    for holder <- holders do
      send(holder, :start)

      receive do
        {:started, time} -> time
      end
    end
  end

  defp stop_each(holders) do
    for holder <- holders do
      monitor = Process.monitor(holder)
      send(holder, :stop)

      receive do
        {:DOWN, ^monitor, :process, _, _} -> :ok
      end
    end
  end

  defp memory(holders) do
    Enum.each(Process.list(), &:erlang.garbage_collect/1)
    :erlang.memory(:total) - Enum.sum(Enum.map([self() | holders], &heap/1))
  end

  defp heap(pid) do
    {:total_heap_size, words} = Process.info(pid, :total_heap_size)
    words * :erlang.system_info(:wordsize)
  end
end

Bench.run()
