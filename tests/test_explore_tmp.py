import subprocess, sys, os, time
def test_x(model_dir, data_dir, tmp_path, capsys):
    with capsys.disabled():
        print()
        env = {**os.environ, "OMP_NUM_THREADS":"1","ROBUST_PREFIX_CACHE":str(tmp_path/"cache"), "PYTHONDONTWRITEBYTECODE":"1"}
        common = ["--model", str(model_dir), "--data-dir", str(data_dir), "--dtype","float32"]
        def go(pre, *args, **kw):
            t=time.time()
            r = subprocess.run([sys.executable,"-c", pre+"from robust_prefix.cli import main; main()",*args],capture_output=True,text=True,env=env,**kw)
            print("---", args[0], pre[:90], "rc", r.returncode, f"{time.time()-t:.1f}s"); print(r.stdout[-1000:]); print("ERR", r.stderr[-1800:])
        go("", "train","--out",str(tmp_path/"a"),*common,"--epochs","1")
        go("", "fit-subspaces",str(tmp_path/"a"),"--data-dir",str(data_dir),"--dtype","float32")
        go("", "predict",str(tmp_path/"a"),"--dtype","float32", input="a good film\n")
        for n in (0, 3000, 20000):
            go(f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE,({n},{n}));", "train","--out",str(tmp_path/f"b{n}"),*common,"--epochs","1")
            print(sorted(str(p.relative_to(tmp_path)) for p in (tmp_path/f"b{n}").rglob("*")))
        go(f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE,(1500,1500));", "fit-subspaces",str(tmp_path/"a"),"--data-dir",str(data_dir),"--dtype","float32")
        print(sorted((str(p.relative_to(tmp_path)),p.stat().st_size) for p in (tmp_path/"a").rglob("*")))
        for a in (["--epochs","inf"],["--epochs","nan"],["--learning-rate","inf"],["--init","x"],["--batch-size","0"],["--device","cuda"],["--length","300"]):
            go("", "train","--out",str(tmp_path/"c"),*common,*a)
        go("", "predict",str(tmp_path/"a"),"--dtype","float32","--defense","robust-prefix(learning_rate=inf)", input="a good film\n")
        go("", "predict",str(tmp_path/"a"),"--dtype","float32","--defense","random-prefix(seed=-1,rms=1)", input="a good film\n")
        env2 = dict(env); 
        go("import sys; sys.path;", "attack",str(tmp_path/"a"),"--attack","deepwordbug","--num-examples","3","--dtype","float32","--data-dir",str(data_dir),"--out",str(tmp_path/"r"),"--json")
